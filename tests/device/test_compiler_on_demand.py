"""The stand-in of `torch._dynamo`: asked for nothing, it imports nothing; asked for anything else, it is the package.

Each in a process of its own, as what is imported once stays imported.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import sys
from metarun.device.compiler_on_demand import import_compiler_on_demand
import_compiler_on_demand()
import torch
def imported():
    return any(name.startswith(("torch._dynamo.", "torch._inductor")) for name in sys.modules)
"""
OPTIMIZED = """
leaf = torch.arange(1.0, 4.0).requires_grad_()
leaf.grad = torch.ones(3)
optimizer = torch.optim.Adam([leaf], lr=0.5)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
optimizer.load_state_dict(optimizer.state_dict())
optimizer.step()
schedule.step()
optimizer.zero_grad()
"""


def says(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_optimizers_and_differentiation_do_without_the_compiler():
    script = OPTIMIZED + "print(*leaf.tolist(), *torch.func.grad(lambda x: (x**2).sum())(torch.ones(2)).tolist())"
    *values, imported = says(f"{BEGIN}{script}\nprint(imported())")
    assert imported == "False"
    assert values == says(f"import torch\n{script}")
    # Adam's first step along a gradient of ones is lr, but for its epsilon of 1e-8; 2 x at ones is 2.
    assert [float(value) for value in values] == pytest.approx([0.5, 1.5, 2.5, 2, 2], abs=1e-6)


@pytest.mark.parametrize(
    "way",
    [
        "from torch._dynamo.exc import Unsupported",
        "import torch._dynamo.backends.registry",
        "torch._dynamo.config",
        "torch._dynamo.compiled_autograd.reset",
        "import torch._dynamo; torch._dynamo.symbolic_convert",
    ],
)
def test_whatever_else_is_asked_for_is_the_package_itself_and_there_once(way):
    script = f"""{BEGIN}{OPTIMIZED}
assert not imported()
{way}
import torch._dynamo.exc, torch._dynamo.symbolic_convert
package = sys.modules["torch._dynamo"]
print(package.__file__ is not None, torch._dynamo is package, imported())
print(package.symbolic_convert.exc is sys.modules["torch._dynamo.exc"] is package.exc)
print(package.exc.__spec__.origin == package.exc.__file__)
print(issubclass(package.exc.Unsupported, package.exc.TorchDynamoException))
print(any(type(finder).__module__.startswith("metarun") for finder in sys.meta_path))
"""
    assert says(script) == ["True"] * 6 + ["False"]


def test_what_was_compiled_after_an_optimizer_was_made_is_compiled():
    script = f"""{BEGIN}{OPTIMIZED}
graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph
twice = torch.compile(lambda x: 2 * x, backend=backend, fullgraph=True)
print(*twice(torch.ones(2)).tolist(), len(graphs))
optimizer.state_dict()
leaf.grad = torch.ones(3)
optimizer.step()
print(len(graphs), round(leaf[0].item(), 5))
"""
    # The second step along ones is lr again, halved by the schedule: 0.5 - 0.25.
    assert says(script) == ["2.0", "2.0", "1", "1", "0.25"]


def test_a_package_that_is_imported_already_stays():
    script = """
import torch._dynamo, sys
before = sys.modules["torch._dynamo"], list(sys.meta_path)
from metarun.device.compiler_on_demand import import_compiler_on_demand
import_compiler_on_demand()
print(before == (sys.modules["torch._dynamo"], list(sys.meta_path)))
"""
    assert says(script) == ["True"]
