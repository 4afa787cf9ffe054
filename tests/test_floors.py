"""The house's floors: imports go down only, large packages come in by their doors, nothing draws from a global generator.

Everything here reads source text; nothing is imported.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "metarun"

# From the ground up; each may import those before it, and no other: no sideways look, no exception. A folder of metarun/ is
# one room, and so is a module that lies beside the folders; "" is metarun/__init__.py, which holds the version.
ROOMS = (
    "",
    "errors",
    "checks",
    "rng",
    "json_text",
    "files",
    "device",
    "maths",
    "configuration",
    "tasks",
    "models",
    "problems",
    "algorithm",
    "run_folder",
    "tracking",
    "training",
    "build",
    "console",
    "report",
    "gradients",
    "sweep",
    "commands",
    "trained",
    "command_line",
    "interface",
    "__main__",
)
# Where a large package may be imported: the rooms that use it. What is named nowhere here is Python's own, torch, or of tasks.
# `rng` multiplies its positions in numpy: as indices times a 64-bit constant PyTorch's compiler would get them wrong.
DOORS = {
    "hydra": {"configuration", "sweep", "commands", "command_line", "interface"},
    "omegaconf": {"configuration", "sweep", "commands", "command_line", "interface"},
    "yaml": {"configuration"},
    "rich": {"console", "report", "sweep", "commands", "trained", "command_line"},
    "matplotlib": {"report"},
    "PIL": {"report", "tasks", "trained"},
    "optuna": {"sweep"},
    "numpy": {"rng", "tasks", "trained"},
    "wandb": {"tracking"},
    "tensorboard": {"tracking"},
    "mlflow": {"tracking"},
    "gymnasium": {"tasks"},
    "mujoco": {"tasks"},
    "IPython": {"console"},
    "onnx": {"trained"},
    "onnxscript": {"trained"},
    "onnxruntime": {"trained"},
    "pandas": {"interface"},
}
TRACKERS = {
    "metarun.tracking.wandb": {"wandb"},
    "metarun.tracking.wandb_account": {"wandb"},
    "metarun.tracking.wandb_private": {"wandb"},
    "metarun.tracking.tensorboard": {"tensorboard"},
    "metarun.tracking.mlflow": {"mlflow"},
}
ONLY_WHEN_USED = {
    "torchmeta",
    "wandb",
    "tensorboard",
    "mlflow",
    "optuna",
    "sklearn",
    "pandas",
    "h5py",
    "requests",
    "gymnasium",
    "mujoco",
    "IPython",
    "onnx",
    "onnxscript",
    "onnxruntime",
}

MODULES = sorted(
    ".".join(("metarun", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def room_of(module: str) -> str:
    """`metarun.maths.cg` is in `maths`; `metarun` itself in ``""``."""
    return module.split(".")[1] if "." in module else ""


def tree_of(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(tree: ast.Module, *, lazy: bool = True) -> Iterator[str]:
    """Full names of what a module imports: `from metarun import rng` gives `metarun.rng`.

    With `lazy` false only what is imported when the module is: not inside functions, not for type checkers alone.
    """

    def nodes(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not lazy and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if not lazy and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            yield child
            yield from nodes(child)

    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a floor can be read from them"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if node.module == "metarun" and name in MODULES else str(node.module)


def packages(module: str, *, lazy: bool = True) -> set[str]:
    """Top-level packages that a module imports."""
    return {name.partition(".")[0] for name in imports(tree_of(module), lazy=lazy)}


def test_every_room_is_named_once_and_is_there():
    assert sorted(ROOMS) == sorted({room_of(module) for module in MODULES})


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module):
    if module == "metarun":  # the names that a user finds there, each imported when it is asked for
        return
    below = ROOMS[: ROOMS.index(room_of(module)) + 1]
    for name in imports(tree_of(module)):
        if name.partition(".")[0] == "metarun":
            assert room_of(name) in below, f"{module} imports {name}, which stands above it"


def test_no_module_imports_itself_by_a_detour():
    graph = {m: {n for n in imports(tree_of(m), lazy=False) if n in MODULES} for m in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) == "tracking"])
def test_tracking_needs_nothing_but_python(module):
    assert packages(module, lazy=False) - {"metarun"} <= sys.stdlib_module_names
    # The others are imported when a run is opened, and there alone.
    others = packages(module) - {"metarun"} - sys.stdlib_module_names
    assert others == TRACKERS.get(module, set())


@pytest.mark.parametrize("module", MODULES)
def test_each_large_package_has_its_doors(module):
    used = packages(module)
    assert {package for package in used & DOORS.keys() if room_of(module) not in DOORS[package]} == set()
    known = {"metarun", "torch", *sys.stdlib_module_names, *DOORS}
    assert room_of(module) == "tasks" or used <= known, f"give {used - known} a door"
    assert not packages(module, lazy=False) & ONLY_WHEN_USED


@pytest.mark.parametrize("module", MODULES)
def test_pyplot_is_the_users(module):
    """Who draws by it chooses how all of a process's figures are shown, those in a user's notebook among them."""
    assert not {name for name in imports(tree_of(module)) if name.startswith("matplotlib.pyplot")}
    assert "matplotlib.use" not in {ast.unparse(node) for node in ast.walk(tree_of(module))}


@pytest.mark.parametrize("module", MODULES)
def test_torchmeta_comes_in_at_one_door(module):
    named = {node.value for node in ast.walk(tree_of(module)) if isinstance(node, ast.Constant)}
    imported = "torchmeta" in packages(module) or "torchmeta" in named
    says_version = module in ("metarun.commands.result", "metarun.commands.doctor", "metarun.commands.machine")
    assert not imported or says_version or module == "metarun.tasks.sources.torchmeta_compat"


@pytest.mark.parametrize(
    "module",
    [
        "metarun",
        "metarun.command_line.main",
        "metarun.tasks.sources.catalogue",
        "metarun.command_line.help",
        "metarun.command_line.help_keys",
        "metarun.command_line.completion",
        "metarun.configuration.explain",
        "metarun.configuration.config_folder",
        "metarun.maths.stats",
        "metarun.commands.status",
        "metarun.commands.job",
    ]
    + [
        m
        for m in MODULES
        if room_of(m) == "report" and m not in ("metarun.report.figures", "metarun.report.trajectories")
    ],
)
def test_what_answers_at_once_does_not_wait_for_torch(module):
    """Nor does anything that these import when they are imported: help, reports on hundreds of runs, a sweep's status."""
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        assert "torch" not in packages(name, lazy=False), name
        waiting += [other for other in imports(tree_of(name), lazy=False) if other in MODULES and other not in seen]


@pytest.mark.parametrize("module", MODULES)
def test_nothing_draws_from_a_global_generator(module):
    """No `torch.manual_seed`, `random`, `numpy.random`: a draw is a function of (seed, labels, index)."""
    tree = tree_of(module)
    assert "random" not in packages(module)
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {name for name in names if name.startswith(("np.random", "numpy.random", "random."))}
    assert not names & {"torch.manual_seed", "torch.seed", "torch.random.manual_seed", "torch.cuda.manual_seed_all"}
    if module != "metarun.rng":  # the one place that knows generators
        assert not names & {
            "torch.Generator",
            "torch.default_generator",
            "torch.set_rng_state",
            "torch.random.fork_rng",
        }
        drawing = {"torch.rand", "torch.randn", "torch.randint", "torch.randperm", "torch.normal", "torch.bernoulli"}
        assert not names & drawing


@pytest.mark.parametrize("module", MODULES)
def test_objects_are_made_from_configuration_in_one_place(module):
    calls = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)]
    instantiating = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] == "instantiate"]
    assert len(instantiating) == (1 if module == "metarun.configuration.instantiate" else 0)


@pytest.mark.parametrize("module", [m for m in MODULES if m != "metarun.console.terminal"])
def test_every_console_prints_data_as_it_is(module):
    """rich reads `[bold]` and `:name:` in texts, unless told otherwise."""
    calls = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call.func) in ("Console", "Text.from_markup")]
    # A bar's column of text reads markup by itself.
    columns = [ast.unparse(call) for call in calls if ast.unparse(call.func) == "TextColumn"]
    assert all("[" not in column or "markup=False" in column or "{" not in column for column in columns)


def test_the_walk_sees_imports_of_every_kind():
    source = """
from typing import TYPE_CHECKING
from metarun import rng, __version__
import hydra.utils
if TYPE_CHECKING:
    import a
def f():
    import b
class C:
    import c
try:
    import d
except ImportError:
    pass
"""
    tree = ast.parse(source)
    assert set(imports(tree)) == {"typing", "metarun.rng", "metarun", "hydra.utils", "a", "b", "c", "d"}
    assert set(imports(tree, lazy=False)) == {"typing", "metarun.rng", "metarun", "hydra.utils", "c", "d"}
