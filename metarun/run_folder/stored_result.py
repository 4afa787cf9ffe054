"""Whether a configuration has been run already, and its result."""

import contextlib
from pathlib import Path
from typing import Any

from metarun.configuration.instantiate import make
from metarun.errors import ConfigurationError, DamagedFile
from metarun.maths.stats import has_score
from metarun.run_folder.checkpoints import newest
from metarun.run_folder.data_record import check_same_data, own_data
from metarun.run_folder.folder import RunFolder, differences, fingerprint
from metarun.run_folder.source_record import changed_sources


def stored_result(folder: RunFolder, config: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a finished run of this very configuration; refuses a folder that holds another one.

    A person's own files (dataset=folder, table, arrays) are no part of the configuration: where they are there still, they must
    be the same. Of images only what changed by name, size or time since it was packed is read.
    """
    if config["run"]["overwrite"]:
        return None
    stored = folder.read_config()
    if stored is None:
        return None
    changed = differences(stored, config)
    if changed:
        if _made_by(folder) == fingerprint(config):
            reason = f"it has {changed[0]}, and what lies beside it was made by the latter"
            raise DamagedFile(folder.config, reason, "Delete it and run again.")
        raise ConfigurationError(
            f"{folder.path} holds a run of another configuration ({'; '.join(changed[:5])}"
            f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}). "
            "Choose another run.folder, or run.overwrite=true to replace it."
        )
    result = folder.read_result()
    if result is None or not has_score(result["results"][-1][result["score"]]):
        return None  # earlier versions took NaN for a score
    changed_files = changed_sources(folder)
    if changed_files:
        raise ConfigurationError(
            f"{', '.join(map(str, changed_files[:5]))} changed since this finished run was made with it: {folder.path}. Give it "
            "back as it was, choose another run.folder to keep this result, or replace it with run.overwrite=true."
        )
    store = own_data(config)
    if store and Path(store["path"]).expanduser().exists():
        again = "choose another run.folder to keep this result, or replace it with run.overwrite=true"
        check_same_data(folder, make(config, "dataset.source.store"), "this finished run was trained on", again)
    return result


def _made_by(folder: RunFolder) -> str | None:
    """The fingerprint of the configuration that a folder's result or checkpoints were made by; None where nothing says."""
    with contextlib.suppress(ConfigurationError, OSError):
        result = folder.read_result()
        if result is not None:
            return result["fingerprint"]
    with contextlib.suppress(ConfigurationError, OSError):
        state = newest(folder.checkpoints)
        if state is not None:
            return state.fingerprint
    return None
