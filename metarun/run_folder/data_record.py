"""Which examples a run was made of: `data.json` in its folder."""

import logging
from collections.abc import Mapping
from typing import Any

from metarun.errors import ConfigurationError
from metarun.files import read_json
from metarun.run_folder.folder import RunFolder
from metarun.run_folder.shapes import DATA
from metarun.tasks.class_store import ClassStore
from metarun.tasks.episodes import Episodes
from metarun.tasks.stored_regression import StoredRegression
from metarun.tasks.types import TaskSource

_logger = logging.getLogger(__name__)


_OF_A_USER = tuple(
    f"metarun.tasks.sources.{name}"
    for name in (
        "folder.folder",
        "arrays.arrays",
        "arrays.regression_arrays",
        "table.table",
        "table.regression_table",
    )
)
"""The functions that read a person's own files: their examples may change while the configuration stays."""
_HASHES = {
    "sha256": "the examples are",
    "split_sha256": "the split of the classes is",
    "classes_sha256": "the classes of the examples are",
    "targets_sha256": "the targets are",
}
"""What is compared, where both have it, and how the sentence begins that says it differs."""


def store_of(source: TaskSource) -> ClassStore | None:
    """The stored examples of a source; None where tasks are made on the spot."""
    return source.store if isinstance(source, Episodes | StoredRegression) else None


def own_data(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What decides a store of the user's own files, wherever it is packed; None where a configuration has another."""
    store = config["dataset"]["source"].get("store")
    if not isinstance(store, Mapping) or store["_target_"] not in _OF_A_USER:
        return None
    return {key: value for key, value in store.items() if key not in ("cache", "max_pixels")}


def provenance_of(folder: RunFolder) -> Mapping[str, str]:
    """What a run wrote down of its examples; empty where it wrote nothing.

    Raises:
        DamagedFile: it cannot be read.
    """
    try:
        return read_json(folder.data, DATA, "Delete it: nothing then says what the examples were.")["provenance"]
    except FileNotFoundError:
        return {}


def record_data(folder: RunFolder, store: ClassStore) -> None:
    """Write down which classes are in which split, and what the examples are.

    Raises:
        ConfigurationError: they are others than the run began with.
    """
    if (folder.checkpoints / "last.pt").exists():
        check_same_data(folder, store, "this run began with", "start again with run.overwrite=true")
    data = {"provenance": dict(store.provenance), "splits": {split: store.names(split) for split in store.splits}}
    folder.write_json(folder.data, data)


def check_same_data(folder: RunFolder, store: ClassStore, what_was: str, else_do: str) -> None:
    """Refuse a store whose examples or split are not those in the run's data.json; warn where it has none.

    Args:
        what_was: of which they should be, as in "this run began with".
        else_do: what can be done but giving the data as they were.
    Raises:
        ConfigurationError: they are not, or the file is damaged.
    """
    try:
        before = read_json(folder.data, DATA, "Delete it and run again: nothing then says what the examples were.")
    except FileNotFoundError:
        _logger.warning("%s is missing: nothing says whether the examples are those that %s", folder.data, what_was)
        return
    versions = [provenance.get("version") for provenance in (before["provenance"], store.provenance)]
    otherwise = (
        ""
        if versions[0] == versions[1]
        else (
            f" Files that did not change may be read otherwise: version {versions[0]} of the preparation read them then, and "
            f"{versions[1]} now."
        )
    )
    for key, words in _HASHES.items():
        if before["provenance"].get(key) != store.provenance.get(key):
            raise ConfigurationError(
                f"{words} no longer what {what_was} ({folder.data}). Give dataset.path the data as they were, or {else_do}."
                f"{otherwise}"
            )
