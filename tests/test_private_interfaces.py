"""What is used of Hydra, OmegaConf, wandb, Optuna and torch that they do not offer publicly: in few modules, still there."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GATHERED = (
    "metarun/configuration/hydra_private.py",
    "metarun/tracking/wandb_private.py",
    "tests/tracking/wandb_private.py",
)
DISTRIBUTIONS = {"hydra": "hydra-core", "omegaconf": "omegaconf", "wandb": "wandb", "optuna": "optuna"}
PRIVATE = re.compile(
    r"(hydra|omegaconf|optuna)(\.\w+)*\._[a-z]\w*(\.\w+)*|wandb(\.\w+)*\.(sdk|analytics|proto|_[a-z]\w*)\b.*"
)


def private_names(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what is imported from a private module, or is itself private; ("", text) for a text that names one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, a.name) for a in node.names if PRIVATE.fullmatch(f"{node.module}.{a.name}"))
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if PRIVATE.fullmatch(alias.name))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and PRIVATE.fullmatch(node.value):
            yield "", node.value


USED = [(file, *names) for file in GATHERED for names in private_names((ROOT / file).read_text())]


def broken(module: str, file: str) -> str:
    distribution = DISTRIBUTIONS[module.partition(".")[0]]
    return (
        f"{distribution} {version(distribution)} is the installed version, and its {module} is not what {file} uses: "
    )


@pytest.mark.parametrize(("file", "module", "name"), USED, ids=lambda value: str(value))
def test_what_is_used_is_there(file, module, name):
    try:
        there = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        pytest.fail(broken(module, file) + str(error))
    assert callable(there), broken(module, file) + f"it has no {name}"


def test_hydras_parser_knows_the_flags_that_are_read():
    from metarun.configuration.hydra_private import flags_parser

    read = {"overrides", "multirun", "run", "cfg", "info", "resolve", "shell_completion", "config_dir", "config_name"}
    missing = read - vars(flags_parser().parse_args([])).keys()
    assert not missing, broken("hydra._internal.utils", GATHERED[0]) + f"get_args_parser() sets no {sorted(missing)}"


def test_wandb_takes_the_arguments_that_it_is_given():
    from wandb.sdk.lib.wbauth import authenticate_session

    given = {"host": "", "source": "", "prompt": False, "verify": False, "update_session": False}
    refused = None
    try:
        inspect.signature(authenticate_session).bind(**given)
    except TypeError as error:
        refused = error
    assert refused is None, broken("wandb.sdk.lib.wbauth", GATHERED[1]) + f"authenticate_session: {refused}"


def test_what_stands_in_for_the_compiler_is_called_as_it_is():
    """`metarun.device.compiler_on_demand` answers these in the place of torch._dynamo."""
    from torch._dynamo import compiled_autograd, decorators, trace_rules

    calls = {
        decorators.graph_break: ((), {}),
        decorators.disable: ((print, True), {"wrapping": False}),
        compiled_autograd._disable: ((), {}),
        trace_rules.clear_lru_cache: ((), {}),
    }
    for function, (arguments, options) in calls.items():
        inspect.signature(function).bind(*arguments, **options)
    # Nothing was compiled here, and so they do nothing.
    assert decorators.graph_break() is None
    assert decorators.disable(abs, True, wrapping=False)(-1) == 1
    with compiled_autograd._disable() as nothing:
        assert nothing is None
    assert trace_rules.clear_lru_cache() is None


def test_what_makes_a_program_is_there():
    """`metarun.training.program`, `metarun.maths.loops` and `metarun.training.optimizer_rule` use these of PyTorch."""
    import torch
    from torch._higher_order_ops.while_loop import while_loop_op
    from torch._inductor import config
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx
    from torch.utils._python_dispatch import TorchDispatchMode

    three = [torch.tensor(0), torch.tensor(1)]

    def doubled(number: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return number + 1, 2 * value

    inspect.signature(while_loop_op).bind(lambda *_: None, doubled, tuple(three), ())
    found = while_loop_op(lambda number, value: number < 3, doubled, tuple(three), ())
    assert [int(value) for value in found] == [3, 8]
    with disable_proxy_modes_tracing():
        traced = make_fx(lambda value: 2 * value)(torch.tensor(1))
    assert int(traced(torch.tensor(5))) == 10

    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Seen():
        torch.ones(2) + 1
    assert seen == ["aten.ones.default", "aten.add.Tensor"]
    assert config.unsafe_marked_cacheable_functions == {}, "torch._inductor's cache is told of loops by this setting"
    groups = torch.optim.Adam([torch.zeros(1)]).param_groups
    assert groups[0].keys() >= {"differentiable", "capturable", "foreach"}


def test_nothing_else_reaches_into_them():
    found = {}
    for folder in ("metarun", "hydra_plugins", "tests", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            names = [] if file in GATHERED or path == Path(__file__) else [*private_names(path.read_text())]
            found |= {file: names} if names else {}
    assert found == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from hydra._internal.utils import x", [("hydra._internal.utils", "x")]),
        ("from hydra import _internal", [("hydra", "_internal")]),
        ("import wandb.sdk.lib", [("wandb.sdk.lib", "")]),
        ("from wandb import sdk", [("wandb", "sdk")]),
        ("skip('omegaconf._utils')", [("", "omegaconf._utils")]),
        ("from hydra.core.utils import JobReturn\nfrom wandb import Settings", []),
    ],
)
def test_private_names_are_seen(source, names):
    assert [*private_names(source)] == names
