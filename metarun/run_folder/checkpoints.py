"""The checkpoints of a run, and what there is to go on from when one of them is damaged."""

import logging
import os
from pathlib import Path
from typing import Any

from metarun.errors import ConfigurationError, DamagedFile
from metarun.run_folder.state import TrainState, load, load_state, save, save_state

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
"""The newest state, the one before it, and theta as validation selected it, which the first two hold as well."""
START = "start.pt"
"""Of a run with `run.init_from`: its parameters before the first step, those that are not learned among them."""

_logger = logging.getLogger(__name__)


def save_last(folder: Path, state: TrainState) -> None:
    """Write last.pt; the one that was there becomes previous.pt."""
    save_state(folder / LAST, state, kept=folder / PREVIOUS)


def save_best(folder: Path, state: TrainState) -> None:
    """Write best.pt: the theta that validation has selected so far."""
    content = {"step": state.best_step, "theta": state.best_theta, "fingerprint": state.fingerprint}
    save(folder / BEST, content)


def take_up(folder: Path) -> TrainState | None:
    """The state to go on from, or None where there is none; for the process that holds the run's lock.

    A damaged last.pt is put aside, so that it does not become previous.pt, and a best.pt that is missing or damaged is
    written again from the state; each is said.

    Raises:
        ConfigurationError: no checkpoint is whole, or they are of another version of metarun.
    """
    state, damaged = _newest(folder)
    if state is None:
        return None
    for error in damaged:
        path = error.path
        aside = path.with_name(f"{path.name}.damaged")
        os.replace(path, aside)
        _logger.warning("%s was damaged (%s) and is now %s", path, error.reason, aside.name)
    if not (folder / LAST).exists():
        _logger.warning("going on from %s, after step %d", folder / PREVIOUS, state.step)
    _complete(folder, state)
    return state


def newest(folder: Path) -> TrainState | None:
    """The state that `take_up` gives, for those who only read."""
    return _newest(folder)[0]


def selected(folder: Path) -> dict[str, Any] | None:
    """`theta` as validation selected it, the `step` after which, and the `fingerprint`; None where nothing was selected yet.

    Where the run has a start, what is not learned is in `theta` too, as the start had it.

    Raises:
        DamagedFile: best.pt is damaged, and no other checkpoint holds what was in it; or the start is.
    """
    found = _selected(folder)
    if found is None or not (folder / START).exists():
        return found
    return found | {"theta": load(folder / START)["theta"] | found["theta"]}


def _selected(folder: Path) -> dict[str, Any] | None:
    """`selected`, without what is not learned."""
    try:
        return load(folder / BEST)
    except (FileNotFoundError, DamagedFile) as error:
        state = _newest(folder)[0]
        if state is not None and state.best_theta is not None:
            words = f"damaged ({error.reason})" if isinstance(error, DamagedFile) else "missing"
            _logger.warning("%s is %s; the same parameters are taken from the last checkpoint", folder / BEST, words)
            return {"step": state.best_step, "theta": state.best_theta, "fingerprint": state.fingerprint}
        if isinstance(error, DamagedFile):
            raise
        return None


def _newest(folder: Path) -> tuple[TrainState | None, list[DamagedFile]]:
    """The newest whole checkpoint, and those newer than it."""
    damaged = []
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            return load_state(path), damaged
        except FileNotFoundError:
            continue
        except DamagedFile as error:
            damaged.append(error)
    if damaged:
        also = f", and so is {PREVIOUS}" if len(damaged) > 1 else ", and there is no earlier checkpoint"
        raise ConfigurationError(
            f"{damaged[0].path} is damaged ({damaged[0].reason}){also}. run.overwrite=true trains from the beginning."
        )
    return None, damaged


def _complete(folder: Path, state: TrainState) -> None:
    """Make the state and best.pt hold the same selected theta."""
    if state.best_step is None:
        return
    try:
        best = load(folder / BEST)
        if state.best_theta is None and best["step"] == state.best_step:  # a checkpoint of format 1
            state.best_theta = best["theta"]
    except (FileNotFoundError, DamagedFile) as error:
        words = f"damaged ({error.reason})" if isinstance(error, DamagedFile) else "missing"
        if state.best_theta is None:
            raise ConfigurationError(
                f"{folder / BEST} is {words}, and the checkpoint, of an earlier metarun, does not hold what was in it. "
                "run.overwrite=true trains from the beginning."
            ) from error
        _logger.warning("%s was %s; it is written again from the checkpoint", folder / BEST, words)
        save_best(folder, state)
