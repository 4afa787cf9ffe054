"""`metarun data list | check NAME | prepare NAME`: which data sets there are, what is here of them, and getting the rest."""

import itertools
import shlex
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from metarun.configuration.config_folder import config_folder
from metarun.configuration.did_you_mean import closest
from metarun.configuration.explain import COMPOSITION_ERRORS, explain
from metarun.configuration.overrides import check, parse
from metarun.configuration.schema import check_places, check_shape, plain
from metarun.console.bar import advancing
from metarun.console.columns import Column, table
from metarun.console.notes import shown
from metarun.console.terminal import say, tell, terminal
from metarun.errors import ConfigurationError
from metarun.tasks.sources.catalogue import (
    CATALOGUE,
    DataSet,
    complete,
    folders,
    is_there,
    missing_message,
    packed_path,
)

_LABEL = 18  # as wide as the labels of a list
_OWN = "folder"
_OWN_FILES = {
    "table": "dataset.path=FILE.csv dataset.target=COLUMN",
    "table_regression": "dataset.path=FILE.csv dataset.target=COLUMN dataset.task=COLUMN",
    "arrays": "dataset.path=FILE.npz",
    "arrays_regression": "dataset.path=FILE.npz",
    "function": "dataset.source.function._target_=MODULE.FUNCTION",
    "function_regression": "dataset.source.function._target_=MODULE.FUNCTION",
}
"""A person's own files and functions, which are read as they are -> what names them."""
_MADE = ("sinusoid", "harmonic", "sinusoid_and_line", "glyphs")
_ENVIRONMENTS = {
    "nothing to install": ("navigation2d", "tabular_mdp", "bandit"),
    "pip install 'metarun[mujoco]'": (
        "halfcheetah_direction",
        "halfcheetah_velocity",
        "ant_direction",
        "ant_velocity",
        "halfcheetah_direction_finn",
        "halfcheetah_velocity_finn",
        "ant_direction_finn",
        "ant_velocity_finn",
    ),
    "any environment; pip install 'metarun[gymnasium]'": ("gymnasium",),
}
"""What policies learn in: what it takes to have them -> their names."""


def list_sets(overrides: Sequence[str]) -> None:
    """Print every named set, and whether it is here.

    Raises:
        ConfigurationError: an override that is none.
    """
    console = terminal()
    root, cache = _places(_composed(None, overrides))
    entries = list(CATALOGUE.values())
    columns = [
        Column(heading="dataset=", cells=[entry.name for entry in entries], style="bold cyan"),
        Column(heading="classes", cells=["/".join(map(str, entry.classes)) for entry in entries], justify="right"),
        Column(heading="examples", cells=[f"{entry.num_items:,}" for entry in entries], justify="right"),
        Column(heading="packed", cells=[_size(entry.num_bytes) for entry in entries], justify="right"),
        Column(heading="here", cells=[_state(entry, root, cache) for entry in entries]),
        Column(heading="source", cells=[_source(entry) for entry in entries], left_out=2),
        Column(heading="licence", cells=[entry.licence for entry in entries], left_out=1),
    ]
    console.print(table(columns, console.width, is_framed=False))
    tell(console, ("\nmade on the spot", "bold"), f"  {', '.join(_MADE)}", indent=_LABEL)
    for number, (needs, names) in enumerate(_ENVIRONMENTS.items()):
        lines = textwrap.wrap(", ".join(names), max(console.width - _LABEL, 40))
        ending = f"({needs})"  # whole, as it may hold a command
        is_room = len(lines[-1]) + 1 + len(ending) <= console.width - _LABEL
        lines = [*lines[:-1], f"{lines[-1]} {ending}"] if is_room else [*lines, ending]
        for line, text in enumerate(lines):
            say(console, (f"{'environments' if not number and not line else '':{_LABEL}}", "bold"), text)
    tell(
        console,
        ("your images", "bold"),
        "       dataset=folder dataset.path=FOLDER, one folder for each class",
        indent=_LABEL,
    )
    for label, words in (
        (
            "your files",
            "dataset=table or dataset=arrays with dataset.path=FILE; table_regression or arrays_regression to predict numbers",
        ),
        ("your functions", "dataset=function, dataset=function_regression (docs/own_tasks.md)"),
    ):
        tell(console, (f"{label:{_LABEL}}", "bold"), words, indent=_LABEL)
    say(console, ("originals in", "bold"), f"      {root} (data.root, METARUN_DATA)")
    say(console, ("packed files in", "bold"), f"   {cache} (data.cache, METARUN_CACHE)")
    tell(
        console,
        "metarun data check NAME says which files are expected where; metarun data prepare NAME gets and packs them",
    )


def check_set(name: str, overrides: Sequence[str]) -> None:
    """Print what is here of a set, file by file, and what is wrong with it.

    Raises:
        ConfigurationError: it cannot be used as it is.
    """
    console = terminal()
    entry = _entry(name)
    config = _composed(name, overrides)
    root, cache = _places(config)
    size = config["dataset"].get("image_size")
    tell(console, (name, "bold cyan"), f"  {entry.title} (licence: {entry.licence})")
    first, second = folders(entry, root)
    tell(console, ("originals", "bold"), f", one of these in {first} or {second}:")
    problems = _print_layouts(console, entry, root)
    packed = packed_path(cache, name, size)
    say(console, ("packed", "bold"), f"\n  {packed}")
    verdict, is_ready = _packed_state(packed)
    tell(console, f"    {verdict}", indent=4)
    if is_ready:
        return
    if problems:
        raise ConfigurationError(f"{name} cannot be used: {problems[0]}")
    if next(complete(entry, root), None) is None:
        raise ConfigurationError(missing_message(entry, root))
    from metarun.tasks.sources.named import find_originals

    try:
        listed = find_originals(entry, root, size or 0)
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"{name} cannot be used: {error}") from error
    tell(
        console,
        f"the originals hold {len(listed.classes):,} classes and {sum(listed.counts):,} examples, as they should; "
        f"the first run packs them, or: metarun data prepare {name}",
    )


def prepare_set(name: str, overrides: Sequence[str]) -> None:
    """Download what is not here, pack it, check it whole.

    Raises:
        ConfigurationError: no such set, or its originals hold something else.
        OSError: no network, no room, no permission.
    """
    console = terminal()
    entry = None if name == _OWN else _entry(name)
    config = _composed(name, overrides)
    root, cache = _places(config)
    started = time.perf_counter()
    with shown(console):
        if entry is not None:
            packed = packed_path(cache, name, config["dataset"].get("image_size"))
            verdict, is_ready = _packed_state(packed)
            if is_ready:
                tell(console, f"{name} is here already: {packed}\n{verdict}")
                return
            if next(complete(entry, root), None) is None:
                _get(console, entry, root)
            _say_other_archives(console, entry, root)
        from metarun.configuration.instantiate import make

        with advancing(console, f"packing {name}") as progress:
            store = make(config, "dataset.source.store", progress=progress)
    counts = " / ".join(f"{len(store.splits[split]):,} {split}" for split in store.splits)
    tell(
        console,
        f"{name}: {len(store.classes):,} classes ({counts}), {len(store.items):,} examples of "
        f"{'x'.join(map(str, reversed(store.items.shape[1:])))}, {_size(store.num_bytes)}, checked whole, "
        f"in {time.perf_counter() - started:.1f} s",
    )
    command = shlex.join(["metarun", "algorithm=imaml", f"dataset={name}", *overrides])
    say(console, ("next", "bold"), f"  {command}")


def _entry(name: str) -> DataSet:
    if name == _OWN:
        raise ConfigurationError(
            f"no data set with files is called {name!r}: your own images are checked when they are packed. "
            "Run: metarun data prepare folder dataset.path=FOLDER"
        )
    if name in _OWN_FILES:
        raise ConfigurationError(
            f"{name} is read as it is: there is nothing to get or to pack. Run: metarun dataset={name} {_OWN_FILES[name]}"
        )
    if name in (*_MADE, *itertools.chain(*_ENVIRONMENTS.values())):
        raise ConfigurationError(
            f"{name} has no files: there is nothing to get or to check. Run: metarun dataset={name}"
        )
    if name not in CATALOGUE:
        near = closest(name, list(CATALOGUE))
        hint = f"; did you mean {near}?" if near else "."
        raise ConfigurationError(f"no data set with files is called {name!r}{hint} There are: {', '.join(CATALOGUE)}.")
    return CATALOGUE[name]


def _composed(name: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration as a run would have it."""
    words = [*([f"dataset={name}"] if name else []), *overrides]
    check(parse(words), config_folder())
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose("config", words, return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        OmegaConf.set_struct(composed, False)
        del composed["hydra"]
        check_shape(composed, choices)
        config = plain(composed, resolve=True)
    except COMPOSITION_ERRORS as error:
        raise ConfigurationError(explain(error, words, config_folder())) from error
    check_places(config)
    return config


def _places(config: dict[str, Any]) -> tuple[Path, Path]:
    return Path(config["data"]["root"]).expanduser(), Path(config["data"]["cache"]).expanduser()


def _state(entry: DataSet, root: Path, cache: Path) -> Text:
    side = entry.shape[-1] if entry.has_images else None
    if packed_path(cache, entry.name, side).is_file():
        return Text("packed", "green")
    found = next(complete(entry, root), None)
    return Text(found[0].kind, "yellow") if found else Text("-")


def _source(entry: DataSet) -> str:
    if not entry.archives:
        return "OpenML"
    return (
        "Google Drive"
        if "google" in entry.archives[0].address
        else entry.archives[0].address.split("/")[2].removeprefix("www.")
    )


def _print_layouts(console: Console, entry: DataSet, root: Path) -> list[str]:
    """Each accepted file, where it lies, and what is wrong with it; the problems are given back in words."""
    known = {archive.name: archive for archive in entry.archives}
    problems = []
    for layout in entry.layouts:
        say(console, (f"  {layout.kind}", "bold"))
        for name in layout.files:
            places = [folder / name for folder in folders(entry, root) if is_there(folder / name, name)]
            if not places:
                say(console, (f"    {name}: missing", "dim"))
                continue
            words, problem = _file_state(places[0], known.get(name))
            tell(console, f"    {places[0]}: ", (words, "red" if problem else "green"), indent=6)
            if problem:
                problems.append(f"{places[0]}: {words}. Delete it and run: metarun data prepare {entry.name}")
    return problems


def _file_state(path: Path, archive: Any) -> tuple[str, bool]:
    """What a file is, and whether that keeps it from being used."""
    from metarun.tasks.sources.archives import is_web_page, kilobytes, md5_of

    if path.is_dir():
        return "here", False
    if path.suffix not in (".csv", ".json") and is_web_page(path):
        return f"an HTML page of {kilobytes(path)}: the download was refused", True
    size = f"{path.stat().st_size:,} bytes"
    if archive is None or archive.md5 is None:
        return f"here, {size}", False
    if md5_of(path) == archive.md5:
        return f"the official file, {size}", False
    if archive.num_bytes is not None and path.stat().st_size < archive.num_bytes:
        return f"truncated: {size} of {archive.num_bytes:,}", True
    return f"here, {size}; not the official bytes (MD5), so its content decides", False


def _packed_state(path: Path) -> tuple[str, bool]:
    """What a packed file is, all of it read, and whether it can be used."""
    if not path.is_file():
        return "not packed yet", False
    from metarun.tasks.class_store import CorruptStoreError
    from metarun.tasks.packed_file import open_store

    try:
        store = open_store(path, is_whole=True)
        store.verify()
    except (CorruptStoreError, OSError) as error:
        return str(error), False
    counts = ", ".join(f"{len(store.splits[split]):,} {split}" for split in store.splits)
    return (
        f"whole ({_size(path.stat().st_size)}, SHA-256 as recorded): {counts} classes, {len(store.items):,} examples",
        True,
    )


def _get(console: Console, entry: DataSet, root: Path) -> None:
    """Download the official archives, or what OpenML has, into the set's folder."""
    folder = root / entry.folder
    if not entry.archives:
        from metarun.tasks.sources.torchmeta_compat import fetch_features

        console.print(f"{entry.name}: from OpenML by torchmeta, into {folder}", soft_wrap=True)
        try:
            fetch_features(entry.name, root)
        except ImportError as error:
            raise ConfigurationError(str(error)) from error
        except OSError as error:
            raise OSError(f"{entry.name} could not be had from OpenML: {error}") from error
        return
    from metarun.tasks.sources.download import download

    for archive in entry.archives:
        console.print(f"{archive.name}: from {archive.address}, into {folder}", soft_wrap=True)
        with advancing(console, archive.name, _bytes_words) as progress:
            download(archive, folder, progress)


def _say_other_archives(console: Console, entry: DataSet, root: Path) -> None:
    """Name archives that are about to be packed and are not byte for byte the official ones."""
    found = next(complete(entry, root), None)
    if found is None:
        return
    known = {archive.name: archive for archive in entry.archives}
    for name, path in found[1].items():
        if name in known:
            words, problem = _file_state(path, known[name])
            if problem:
                raise ConfigurationError(f"{path}: {words}. Delete it and run: metarun data prepare {entry.name}")
            if "not the official" in words:
                tell(console, ("note:", "yellow"), f" {path}: {words}")


def _size(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def _bytes_words(done: float, total: float) -> str:
    return f"{_size(done)} of {_size(total)}" if total else _size(done)
