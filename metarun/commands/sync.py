"""`metarun sync RUN_DIR ... --to TRACKER`: the local record of runs that have ended, sent to a tracker later."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarun.configuration.config_folder import SEVERAL, config_folder, groups
from metarun.configuration.did_you_mean import closest, no_option
from metarun.configuration.instantiate import make
from metarun.configuration.schema import plain
from metarun.configuration.trusted import require_resolved, require_trusted
from metarun.console.notes import shown
from metarun.console.progress import waiting
from metarun.console.terminal import say, terminal
from metarun.errors import ConfigurationError
from metarun.files import read_json
from metarun.run_folder.earlier_versions import of_today
from metarun.run_folder.folder import RunFolder, fingerprint, flatten
from metarun.tracking.base import RunInfo, flat_results, run_id_of
from metarun.tracking.guard import Follower
from metarun.tracking.jsonl import read_metrics

_WAY_OUT = "Delete it: what it says follows from the folder, but for the name of the sweep."
_IDENTITY = {"run_id": str, "name": str, "group": (str, None), "job_type": str, "tags": [str]}


def sync(run_dirs: Sequence[Path], to: str, overrides: Sequence[str], allowed: Sequence[str] = ()) -> None:
    """Send each run's record, configuration and result to a tracker, under the id that the run has there.

    What the tracker holds is not sent again.

    Args:
        to: name of the tracker.
        overrides: KEY=VALUE for its settings, which are otherwise the run's own or the usual ones.
        allowed: classes beside metarun's that a stored configuration may name as its tracker.
    Raises:
        ConfigurationError: a folder without a run, one that is running, an unknown tracker or key, or a missing package;
            nothing has been sent then.
        ConnectionError: some runs could not be sent.
    """
    console = terminal()
    folders = [RunFolder(path) for path in run_dirs]
    planned = [_planned(folder, to, overrides, allowed) for folder in folders]
    failed = 0
    for folder, (node, run) in zip(folders, planned, strict=True):
        with shown(console), folder.locked(), waiting(console, f"sending {folder.path} to {to}"):
            lines = len(read_metrics(folder.metrics)) if folder.metrics.exists() else 0
            result = folder.read_result()
            follower = Follower(to, node, run, folder.log, None)
            try:
                follower.end(1 if result is None else 0, None if result is None else flat_results(result))
                follower.wait(time.monotonic())
            finally:
                follower.kill()
        if follower.is_whole:
            words = f"{lines} lines of metrics.jsonl" + (
                " and its result" if result is not None else ", and no result yet"
            )
            say(console, f"{folder.path} is in {to}: {words}")
        failed += not follower.is_whole
    if failed:
        raise ConnectionError(
            f"{failed} of {len(folders)} runs could not be sent to {to}. The same command sends the rest."
        )


def _planned(
    folder: RunFolder, to: str, overrides: Sequence[str], allowed: Sequence[str]
) -> tuple[dict[str, Any], RunInfo]:
    """The tracker's settings, checked, and what it is told of the run."""
    stored = folder.read_config()
    if stored is None:
        raise ConfigurationError(f"{folder.path} must hold a run (a config.json), and it does not.")
    require_resolved(stored)
    mark, config = fingerprint(stored), of_today(stored)
    own = config[SEVERAL].get(to) if isinstance(config.get(SEVERAL), Mapping) else None
    root = folder.path.absolute().parent if not config["run"]["folder"] else config["run"]["root"]
    node = _settings(to, own, str(root), overrides)
    require_trusted({SEVERAL: {to: node}}, allowed)
    make({SEVERAL: {to: node}}, f"{SEVERAL}.{to}")
    told = {
        "run_id": run_id_of(folder.path, mark),
        "name": folder.path.absolute().name,
        "group": None,
        "job_type": "train",
        "tags": [config["choices"]["algorithm"], config["choices"]["dataset"]],
    }
    if folder.tracking.exists():  # not in runs of earlier versions
        told = {key: read_json(folder.tracking, _IDENTITY, _WAY_OUT)[key] for key in told}
    return node, RunInfo(folder=folder.path, config=config, is_sync=True, **told | {"tags": tuple(told["tags"])})


def _settings(to: str, own: Any, root: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The usual settings of a tracker, with those that the run had, with `overrides`."""
    options = groups(config_folder())[SEVERAL]
    if to == "none" or (to not in options and own is None):
        raise ConfigurationError(no_option(SEVERAL, to, [option for option in options if option != "none"]))
    if to in options:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose("config", [f"{SEVERAL}={to}"])
    else:
        composed = OmegaConf.create({SEVERAL: {to: {}}, "run": {}})
    OmegaConf.set_struct(composed, False)
    composed.run.root = root
    OmegaConf.update(composed, f"{SEVERAL}.{to}", own or {}, merge=True)
    known = [key for key in flatten(plain(composed, resolve=False)) if key.startswith(f"{SEVERAL}.{to}.")]
    for override in overrides:
        key = override.partition("=")[0]
        if key not in known:
            near = closest(key, known)
            raise ConfigurationError(f"{to} has no key {key}" + (f"; did you mean {near}?" if near else "."))
        try:
            OmegaConf.update(composed, key, OverridesParser.create().parse_override(override).value())
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigurationError(f"{override!r} cannot be read: {str(error).splitlines()[0]}") from error
    return plain(composed, resolve=True)[SEVERAL][to]
