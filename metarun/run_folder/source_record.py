"""Which program a run was made with, where parts of it are the user's own: `sources.json` in its folder.

The configuration names a model, a data source or any other part by its class, and stays as it is when the class is edited.
"""

import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metarun.files import read_json
from metarun.run_folder.folder import RunFolder
from metarun.run_folder.shapes import SOURCES

_INSTALLED = ("site-packages", "dist-packages")

Sources = dict[str, dict[str, str]]
"""Top-level module -> file, relative to the folder that the module lies in -> SHA-256."""


def sources_of(config: Mapping[str, Any]) -> Sources:
    """The source files of the user's own classes in a configuration whose parts have been made.

    Those are all modules that are imported and lie in or below the folder of the class's top-level module or package:
    what the class is made of. metarun, Python's own modules and installed packages have versions, in environment.json.
    """
    found: Sources = {}
    deciding = {key: value for key, value in config.items() if key != "tracker"}  # which changes no number
    for top in sorted({target.partition(".")[0] for target in _targets(deciding)}):
        root = _root(top)
        if root is not None:
            own = sorted(file for file in _imported() if root in file.parents and not _is_installed(file))
            found[top] = {str(file.relative_to(root)): _digest(file) for file in own}
    return found


def record_sources(folder: RunFolder, config: Mapping[str, Any], resumed_at: int | None) -> list[dict[str, Any]]:
    """Write down the program that goes on with a run after a step, if it is another than before.

    Args:
        resumed_at: the step; None where the run begins.
    Returns:
        All programs of the run, as `{"step": the step it went on after, "files": Sources}`; empty where no part is the user's.
    """
    programs = _recorded(folder) if resumed_at is not None else []
    now = sources_of(config)
    if now and (not programs or programs[-1]["files"] != now):
        programs.append({"step": resumed_at or 0, "files": now})
    if programs:
        folder.write_json(folder.sources, {"programs": programs})
    else:
        folder.sources.unlink(missing_ok=True)
    return programs


def changed_sources(folder: RunFolder) -> list[Path]:
    """The files of the run's last program that are no longer what they were; what is not here at all is not counted."""
    changed = []
    for top, files in _recorded(folder)[-1]["files"].items() if _recorded(folder) else ():
        root = _root(top)
        for name, digest in files.items() if root is not None else ():
            if not (root / name).is_file() or _digest(root / name) != digest:
                changed.append(root / name)
    return changed


def _recorded(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.sources.exists():
        return []
    way_out = "Delete it and give the same command again: what the run was made with is not known then."
    return read_json(folder.sources, SOURCES, way_out)["programs"]


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for child in node.values():
            yield from _targets(child)


def _imported() -> set[Path]:
    """The source files of all modules that are imported."""
    names = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = [Path(name) for name in names if isinstance(name, str) and name.endswith(".py")]
    return {
        file.resolve() for file in files if file.is_absolute() and file.is_file()
    }  # torch.classes says "_classes.py"


def _root(top: str) -> Path | None:
    """The folder that a top-level module lies in; None for metarun, for what is installed, and where there is none."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # __main__ has none
        return None
    if top == "metarun" or spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    place = Path(places[0]).resolve()
    return None if not place.exists() or _is_installed(place) else place.parent


def _is_installed(path: Path) -> bool:
    own = Path(__file__).resolve().parents[1]
    python = Path(sysconfig.get_path("stdlib")).resolve()
    return bool({*_INSTALLED} & {*path.parts}) or python in path.parents or own in path.parents


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
