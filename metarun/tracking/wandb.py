"""Weights & Biases as a second tracker beside the local record: online where it can be, else offline.

The rules: never a prompt, never an unbounded wait for the network. `wandb` is imported when a run is opened, not before.
"""

import contextlib
import http.client
import logging
import shlex
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from metarun import checks
from metarun.tracking.base import NullTracker, RunInfo, Tracker, flat, words
from metarun.tracking.wandb_private import has_key, report_nothing_home

_MODES = ("auto", "online", "offline", "disabled")
_LOCAL_START_S = 60.0  # an offline start takes 0.5 s; it waits for wandb's own process and for no network
_GRACE_S = 2.0  # wandb is given its own time limit and this much more before it is left behind
_NO_KEY = "no API key is configured; run `wandb login`"
_MAX_TAG_LENGTH = 64  # W&B refuses the whole run for one longer tag

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class WandbTracker:
    """Settings of the tracker (conf/tracker/wandb.yaml); `open` starts one W&B run for one metarun run.

    `mode=auto` is online where a key is configured (WANDB_API_KEY, netrc, W&B's settings file) and the server answers,
    else offline: the data then lie in `<run folder>/wandb` and `wandb sync` uploads them. It obeys WANDB_MODE and
    `wandb offline`. Once a run of a process had to go offline, so do the later ones of that process, without asking
    again. Durations are in seconds.
    """

    project: str
    entity: str | None
    mode: str
    group: str | None
    tags: Sequence[str]
    init_timeout_s: float
    finish_timeout_s: float

    def __post_init__(self):
        checks.one_of("mode", self.mode, _MODES)
        for name in ("project", "entity", "group"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} must be a name, got ''")
        for name in ("init_timeout_s", "finish_timeout_s"):
            checks.number(name, getattr(self, name), minimum=0, exclusive=True)

    def open(self, run: RunInfo) -> Tracker:
        """Starts the W&B run; one that keeps nothing where the user disabled W&B.

        Waits for the network at most about `init_timeout_s`.

        Raises:
            Exception: wandb is missing or broken; of a run that is sent later, why it cannot be sent now.
        """
        started = None if self.mode == "disabled" else _start(self, run)
        if started is not None:
            if started.url or run.is_sync:  # offline there is none
                _logger.info("wandb: this run is %s", started.url or f"offline, in {run.folder / 'wandb'}")
            if run.is_new and started.starting_step:
                _logger.warning(
                    "W&B has steps of this run from before it was begun anew, and those below %d are not sent. Delete the run "
                    "there, and send it whole: metarun sync %s --to wandb",
                    started.starting_step,
                    shlex.quote(str(run.folder)),
                )
            return _LiveRun(started)
        if run.is_sync:
            raise ValueError("W&B is disabled (tracker.wandb.mode, WANDB_MODE)")
        return NullTracker()


class _LiveRun:
    """A started W&B run."""

    def __init__(self, wandb_run: Any):
        self._wandb_run = wandb_run
        # Of a run that W&B knows already: the step after its last one. Below it wandb would ignore what it is given.
        self._first_step = wandb_run.starting_step
        self._is_closed = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self._first_step:
            self._wandb_run.log(dict(metrics), step=step)

    def summarize(self, results: Mapping[str, float]) -> None:
        self._wandb_run.summary.update(dict(results))

    def close(self, exit_code: int) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._wandb_run.finish(exit_code=exit_code)


def _start(tracker: WandbTracker, run: RunInfo) -> Any:
    """The started W&B run, or None where the user disabled W&B."""
    import wandb

    report_nothing_home()
    settings = wandb.setup(wandb.Settings(silent=True)).settings
    mode = settings.mode if tracker.mode == "auto" else tracker.mode
    if mode == "disabled":
        return None
    if mode not in ("offline", "dryrun"):
        deadline = time.monotonic() + tracker.init_timeout_s
        reason = _why_not_online(settings, tracker.init_timeout_s)
        if reason is None:
            left_s = max(deadline - time.monotonic(), 1.0)
            try:
                return _bounded(
                    lambda: _init(wandb, tracker, run, "online", left_s), left_s + _GRACE_S, "starting the W&B run"
                )
            except Exception as error:  # offline is the answer to all of them
                reason = words(error)
                # wandb's process holds on to the id of the failed run ("run ID is in use") and in a dead network ends
                # slowly. teardown() detaches from it at once: the next init has a new process, whatever the old does.
                with contextlib.suppress(Exception):
                    _bounded(wandb.teardown, _GRACE_S, "ending wandb's process")
        if run.is_sync:
            raise ConnectionError(reason)
        if reason != _NO_KEY or tracker.mode == "online":  # without a key, offline is what auto means
            _logger.warning(
                "W&B is offline for this run: %s. Send it later: metarun sync %s --to wandb",
                reason,
                shlex.quote(str(run.folder)),
            )
    wandb.setup(wandb.Settings(silent=True, mode="offline"))
    return _bounded(
        lambda: _init(wandb, tracker, run, "offline", tracker.init_timeout_s), _LOCAL_START_S, "starting the W&B run"
    )


def _why_not_online(settings: Any, timeout_s: float) -> str | None:
    """The reason in words, or None where a key is configured and the server answers."""
    try:
        if not has_key(settings.base_url):
            return _NO_KEY
        _require_answer(settings, timeout_s)
    except Exception as error:  # a malformed key, a dead network, another wandb: offline answers them all
        return words(error)
    return None


def _init(wandb: Any, tracker: WandbTracker, run: RunInfo, mode: str, init_timeout_s: float) -> Any:
    return wandb.init(
        project=tracker.project,
        entity=tracker.entity,
        mode=mode,
        dir=str(run.folder),
        id=run.run_id,
        name=run.name,
        group=tracker.group or run.group,
        job_type=run.job_type,
        tags=[tag[:_MAX_TAG_LENGTH] for tag in dict.fromkeys([*tracker.tags, *run.tags])],
        config=flat(run.config),
        resume="allow",
        # One W&B run per metarun run, also for several runs in one process; "finish_previous" would end the others'
        # when they go on in threads beside this one.
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_transaction_log_flush_interval=1,  # seconds; the default loses the last 15 s of a killed job
            init_timeout=init_timeout_s,
            finish_timeout=tracker.finish_timeout_s,
            finish_timeout_raises=True,
        ),
    )


def _require_answer(settings: Any, timeout_s: float) -> None:
    """Returns when the server answers HTTP at all.

    Asked before wandb is, because a wandb that starts online in a dead network cannot be stopped quickly.

    Raises:
        ConnectionError: the server cannot be reached, or does not answer in time.
    """
    url = settings.base_url
    own_proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
    proxies = {scheme: proxy for scheme, proxy in own_proxies.items() if proxy}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies or None))  # None: as in the environment

    def ask() -> None:
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, whatever it says
            opener.open(url, timeout=timeout_s).close()

    try:
        _bounded(ask, timeout_s, "waiting")  # a look-up of the name is not covered by open's own time-out
    except TimeoutError:
        raise ConnectionError(f"{url} did not answer within {timeout_s:g} s (tracker.wandb.init_timeout_s)") from None
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return  # a server is there; whom to trust is for wandb to decide, which has its own certificates
        if isinstance(cause, TimeoutError):
            cause = f"no answer within {timeout_s:g} s (tracker.wandb.init_timeout_s)"
        raise ConnectionError(f"{url} cannot be reached ({cause})") from None


def _bounded(action: Callable[[], _Result], limit_s: float, doing: str) -> _Result:
    """What `action` returns or raises, if it ends within the limit; else it is left behind in its daemon thread.

    Raises:
        TimeoutError: it took longer.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(action())
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=target, name="metarun-wandb", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"{doing} took longer than {limit_s:g} s")
    return results[0]
