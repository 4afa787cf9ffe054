"""`torch._dynamo`, the front of PyTorch's compiler, imported when something of it is needed and not by every optimizer.

Importing it takes as long as importing torch. torch.optim, torch.func and torch.distributed import it for four things that do
nothing unless something is compiled; until then these are answered here.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"


def import_compiler_on_demand() -> None:
    """From here on `import torch._dynamo` costs nothing until a name of it is used that is not answered here.

    Where the package is imported already nothing changes.
    """
    if _NAME not in sys.modules:
        autograd = _OnDemand(f"{_NAME}.compiled_autograd", _disable=_nothing_to_disable)
        rules = _OnDemand(f"{_NAME}.trace_rules", clear_lru_cache=_nothing_cached)
        sys.modules[_NAME] = _OnDemand(
            _NAME, graph_break=_no_graph_to_break, disable=_disable, compiled_autograd=autograd, trace_rules=rules
        )
        sys.meta_path.insert(0, _Submodules())


class _OnDemand(ModuleType):
    """In the place of a module: has the answers that it is given, and imports the module for anything else."""

    def __init__(self, name: str, **answers: Any) -> None:
        super().__init__(name)
        # A package, so that submodules are looked for: `_Submodules` finds them.
        vars(self).update(answers, __path__=[])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # inspect looks through all modules for their files
            raise AttributeError(f"{self.__name__} is not imported yet and has no {name}")
        _compiler()
        return getattr(importlib.import_module(self.__name__), name)


class _Submodules(MetaPathFinder):
    """Imports the package before any of its submodules; importlib takes the stand-in for it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{_NAME}."):
            return None
        package = _compiler()
        if fullname not in sys.modules:
            return PathFinder.find_spec(fullname, list(package.__path__))
        # The package has imported it by itself: once is enough, or its classes would be there twice.
        return ModuleSpec(fullname, _Imported(sys.modules.pop(fullname)))


class _Imported(Loader):
    """Gives a module that is complete, as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _compiler() -> ModuleType:
    """The package itself; it takes the stand-in's place."""
    if isinstance(sys.modules.get(_NAME), _OnDemand):
        del sys.modules[_NAME]
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Submodules)]
    return importlib.import_module(_NAME)


def _no_graph_to_break(msg: str = "") -> None:
    """`graph_break`, outside compiled code."""


def _nothing_cached() -> None:
    """`trace_rules.clear_lru_cache`, which `init_process_group` calls."""


def _nothing_to_disable() -> AbstractContextManager[None]:
    """`compiled_autograd._disable`, where it has not been enabled."""
    return nullcontext()


def _disable(fn: Callable[..., Any], recursive: bool = True, **options: Any) -> Callable[..., Any]:
    """`disable`: the function itself until there is a compiler that must be kept away from it."""
    disabled = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            if isinstance(sys.modules.get(_NAME), _OnDemand):
                return fn(*args, **kwargs)
            disabled = _compiler().disable(fn, recursive, **options)
        return disabled(*args, **kwargs)

    return call
