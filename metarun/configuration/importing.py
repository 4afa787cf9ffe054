"""Classes that a configuration names by their path: where they are looked for, and what to say of one that is not there."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from metarun.errors import ConfigurationError


def look_in_current_folder() -> None:
    """Let modules be imported from the current folder too, as under `python -m`.

    It is looked through last: a file of the user's that is named as an installed package takes the place of none.
    """
    here = os.getcwd()
    if not {"", here} & {*sys.path}:
        sys.path.append(here)


def class_of(key: str, target: Any) -> Callable[..., Any]:
    """Import what `target` names, without calling it.

    Args:
        key: the configuration key that names it.
        target: a dotted path, `my_package.MyNet`.
    Returns:
        The class or function.
    Raises:
        ConfigurationError: no such module, with where was looked; a module that cannot be imported, with its error and the
            line; or a module without that name, with the closest one.
    """
    if not isinstance(target, str) or not all(word.isidentifier() for word in target.split(".")) or "." not in target:
        raise ConfigurationError(f"{key} must name a class with its module, such as my_package.MyNet, got {target!r}")
    words = target.split(".")
    found: Any = None
    for count in range(1, len(words) + 1):
        name = ".".join(words[:count])
        if found is not None and hasattr(found, words[count - 1]):
            found = getattr(found, words[count - 1])
            continue
        if found is not None and not hasattr(found, "__path__"):
            raise ConfigurationError(
                f"{key} is {target}, and {_described(found)} has no {words[count - 1]}{_near(words[count - 1], found)}"
            )
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:  # it is there, and something that it needs is not
                raise ConfigurationError(f"{key} is {target}: {_broken(name, error)}") from error
            if found is not None:
                near = _near(words[count - 1], found)
                raise ConfigurationError(
                    f"{key} is {target}, and {_described(found)} has no {words[count - 1]}{near}"
                ) from None
            raise ConfigurationError(
                f"{key} is {target}, and there is no module {name}. Looked in the current folder ({os.getcwd()}), "
                f"in PYTHONPATH ({os.environ.get('PYTHONPATH') or 'not set'}) and among the packages of {sys.prefix}."
            ) from None
        except Exception as error:
            raise ConfigurationError(f"{key} is {target}: {_broken(name, error)}") from error
    if not callable(found):
        raise ConfigurationError(f"{key} must name a class, and {target} is of type {type(found).__name__}")
    return found


def _broken(module: str, error: Exception) -> str:
    """Why a module cannot be imported: the error and the line that raised it."""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}, line {error.lineno}"
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}"
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{module} cannot be imported ({place}: {type(error).__name__}: {' '.join(said.split())})"


def _described(found: Any) -> str:
    file = getattr(found, "__file__", None)
    name = getattr(found, "__name__", repr(found))
    return f"{name} ({Path(file)})" if file else name


def _near(word: str, found: Any) -> str:
    near = get_close_matches(word, [name for name in dir(found) if not name.startswith("_")], n=1)
    return f"; did you mean {near[0]}?" if near else "."
