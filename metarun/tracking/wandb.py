"""Weights & Biases as a second tracker beside the local record: it may come late, stop or be missing, and the run goes on.

The rules: never a prompt, never an unbounded wait, never an exception out of here, at most one warning per failure, and
nothing of W&B's own chatter on the terminal. `wandb` is imported when a run is opened, not before.
"""

import contextlib
import http.client
import logging
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from metarun import checks
from metarun.tracking.base import NullTracker, RunInfo, Tracker
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
        """Starts the tracker; returns one that keeps nothing where that is not possible, after one warning.

        Waits for the network at most about `init_timeout_s`.
        """
        if self.mode == "disabled":
            return NullTracker()
        try:
            started = _start(self, run)
        except Exception as error:  # whatever fails inside a second tracker, the run must go on
            _logger.warning("W&B is off for this run: %s. Metrics are kept in %s.", _words(error), run.folder)
            return NullTracker()
        if started is None:
            return NullTracker()
        return _LiveRun(started, self.finish_timeout_s, run)


class _LiveRun:
    """A started W&B run. The first failure is a warning; nothing is sent after it."""

    def __init__(self, wandb_run: Any, finish_timeout_s: float, run: RunInfo):
        self._wandb_run = wandb_run
        self._finish_timeout_s = finish_timeout_s
        self._folder = run.folder
        self._is_on = True
        self._is_closed = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        # wandb ignores a step below its last one, so a resumed run does not log anything twice.
        if self._is_on:
            self._guarded(lambda: self._wandb_run.log(dict(metrics), step=step))

    def summarize(self, results: Mapping[str, float]) -> None:
        if self._is_on:
            self._guarded(lambda: self._wandb_run.summary.update(dict(results)))

    def close(self, exit_code: int) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        # Tried also after a failure: what was sent until then should still end with the right exit code.
        limit = self._finish_timeout_s + _GRACE_S
        self._guarded(
            lambda: _bounded(lambda: self._wandb_run.finish(exit_code=exit_code), limit, "ending the W&B run")
        )

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # whatever fails inside a second tracker, the run must go on
            if self._is_on:
                _logger.warning(
                    "W&B stopped: %s. Nothing more is sent to it; the local files in %s are complete.",
                    _words(error),
                    self._folder,
                )
            self._is_on = False


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
                reason = _words(error)
                # wandb's process holds on to the id of the failed run ("run ID is in use") and in a dead network ends
                # slowly. teardown() detaches from it at once: the next init has a new process, whatever the old does.
                with contextlib.suppress(Exception):
                    _bounded(wandb.teardown, _GRACE_S, "ending wandb's process")
        if reason != _NO_KEY or tracker.mode == "online":  # without a key, offline is what auto means
            _logger.warning(
                "W&B is offline for this run: %s. Upload it later with `wandb sync %s`.",
                reason,
                run.folder / "wandb" / "offline-run-*",
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
        return _words(error)
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
        config=_flat(run.config),
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
        raise ConnectionError(f"{url} did not answer within {timeout_s:g} s (tracker.init_timeout_s)") from None
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return  # a server is there; whom to trust is for wandb to decide, which has its own certificates
        if isinstance(cause, TimeoutError):
            cause = f"no answer within {timeout_s:g} s (tracker.init_timeout_s)"
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


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`: what W&B's tables can sort and filter by."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _words(error: Exception) -> str:
    """The error on one line, without a full stop; its type where it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
