"""Random and TPE search: Optuna proposes a batch, the launcher runs it, Optuna learns its validation scores."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep, Transformer
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig

from metarun import checks
from metarun.configuration.command_text import command_line, config_dirs
from metarun.errors import ConfigurationError
from metarun.sweep.launch import Launch
from metarun.sweep.plan import Goal, compose, direction
from metarun.sweep.state import DONE

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

STUDY = "study.journal"
"""Name of Optuna's journal file in the sweep's folder; the study in it has the folder's name."""


def search(
    sweep: Launch,
    loader: Any,
    master: DictConfig,
    words: Sequence[str],
    *,
    sampler: str,
    n_trials: int,
    n_jobs: int,
    seed: int,
    startup: int,
    goal: Literal["auto"] | Goal,
) -> None:
    """Search the ranges in `words`, and say which run was best as a command to copy.

    The proposals follow from the seed and from the scores before them, so that the same command proposes the same again:
    a search that was killed begins anew, and what has been run answers from its folder. The study is therefore kept in
    memory, and its trials go into the journal file once they have ended. Nothing is written before the first batch is
    accepted, and no trial stays "running" in the file after a kill.

    Args:
        sweep: runs the batches.
        loader: Hydra's config loader.
        master: Hydra's configuration of the whole sweep.
        words: overrides, with and without ranges; of two for the same key the later holds.
        sampler: "tpe" or "random".
        n_trials: in all.
        n_jobs: proposed at once.
        seed: of the proposals.
        startup: trials drawn at random before TPE's estimators are used.
        goal: "maximize", "minimize", or "auto" for what is better in the score of the data set.
    Raises:
        ConfigurationError: Optuna is missing, or a setting or a range cannot be.
        SweepError: a trial gave no result; the others went on.
    """
    _check(sweep, sampler, n_trials, n_jobs, seed, startup, goal)
    try:
        import optuna
    except ImportError as error:
        raise ConfigurationError(
            "a search needs Optuna, and it is not installed: pip install -c constraints.txt -e '.[optuna]'"
        ) from error
    overrides = {o.get_key_element(): o for o in OverridesParser.create(config_loader=loader).parse_overrides([*words])}
    fixed = [str(o.input_line) for o in overrides.values() if not o.is_sweep_override()]
    ranges = {key: to_distribution(o) for key, o in overrides.items() if o.is_sweep_override()}
    if not ranges:
        raise ConfigurationError(
            "a search needs a range, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'; got none."
        )

    def words_of(params: Mapping[str, Any]) -> list[str]:
        return [
            f"{key}={ranges[key][1](params[key])}" if key in ranges else str(override.input_line)
            for key, override in overrides.items()
        ]

    distributions = {key: distribution for key, (distribution, _) in ranges.items()}
    if goal == "auto":
        goal = direction(compose(loader, master, fixed)[0])
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    with _quiet():
        study = optuna.create_study(sampler=samplers[sampler](), direction=goal)
        stored: Study | None = None
        while (first := len(study.trials)) < n_trials:
            trials = [study.ask(distributions) for _ in range(min(n_jobs, n_trials - first))]
            returns = sweep.batch([words_of(trial.params) for trial in trials], first, all_or_none=False)
            folders = {job.index: str(job.folder) for job in sweep.jobs}
            for trial, done in zip(trials, returns, strict=True):
                if trial.number in folders:  # else it could not be
                    trial.set_user_attr("folder", folders[trial.number])
                if done.status == JobStatus.COMPLETED:
                    study.tell(trial, done.return_value)
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
            stored = stored or _new_journal(sweep.folder, goal)
            stored.add_trials(study.trials[first:])
    sweep.close(_best(sweep, goal, config_dirs(master.hydra)))


def _check(sweep: Launch, sampler: str, n_trials: int, n_jobs: int, seed: int, startup: int, goal: str) -> None:
    try:
        checks.one_of("sampler", sampler, ("tpe", "random"))
        checks.one_of("direction", goal, ("auto", "minimize", "maximize"))
        for name, value, minimum in (("n_trials", n_trials, 1), ("n_jobs", n_jobs, 1), ("startup", startup, 0)):
            checks.integer(name, value, minimum=minimum)
        checks.integer("seed", seed, minimum=0)
    except ValueError as error:
        raise ConfigurationError(f"hydra.sweeper: {error}") from error
    if not sweep.waits:
        raise ConfigurationError(
            "a search must see each score before it goes on: with hydra/sweeper=tpe or random use metarun -m, "
            "not metarun submit (hydra.launcher.wait must be true)."
        )


def to_distribution(override: Override) -> "tuple[BaseDistribution, Callable[[Any], str]]":
    """What Optuna is to draw from, and how a drawn value is written on the command line.

    As in a grid, the end of `range(...)` is not part of it; both ends of `interval(...)` are. A value among choices that is a
    list or a mapping is known to Optuna by its text. The order of choices means nothing, so that `shuffle` does nothing.

    Raises:
        ConfigurationError: no value can be drawn from it.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    asked: Any = override.value()
    is_log = "log" in getattr(asked, "tags", ())
    try:
        if isinstance(asked, IntervalSweep):
            first, last, step = asked.start, asked.end, None
        elif isinstance(asked, RangeSweep):
            first, last, step = asked.start, _last(asked), abs(asked.step)
        else:
            elements: list[Any] = asked.list if isinstance(asked, ChoiceSweep) else [*override.sweep_iterator()]
            words = [Transformer.str(element) for element in elements]
            texts = dict(zip(map(_choice, elements), words, strict=True))
            if len(texts) < len({*words}):  # 1, 1.0 and true are one to Python
                texts = {word: word for word in words}
            return CategoricalDistribution([*texts]), texts.__getitem__
        if first is None or last is None or not (math.isfinite(first) and math.isfinite(last)):
            raise ValueError("its ends must be finite")
        if step is None and first > last:
            raise ValueError("its first end must not be above its second")
        low, high = sorted((first, last))
        if is_log and low <= 0:
            raise ValueError("tag(log, ...) needs ends above 0")
        is_integer = all(isinstance(number, int) for number in (low, high, step or 1))
        kind: Any = IntDistribution if is_integer else FloatDistribution
        return kind(low, high, log=is_log, step=step or (1 if is_integer else None)), str
    except (ValueError, HydraException) as error:
        why = str(error).rstrip(".")
        raise ConfigurationError(f"{override.input_line} cannot be searched: {why}.") from error


def _last(asked: RangeSweep) -> float:
    """The last value of a range, in decimals as Optuna counts its steps."""
    values = asked.range()
    number = len(values) if isinstance(values, range) else sum(1 for _ in values)
    if number == 0 or asked.start is None:
        raise ValueError("it has no value")
    last = Decimal(str(asked.start)) + (number - 1) * Decimal(str(asked.step))
    return int(last) if isinstance(values, range) else float(last)


def _choice(element: Any) -> str | float | None:
    """One of several choices as Optuna takes it: a scalar."""
    if isinstance(element, QuotedString):
        return element.text
    return element if element is None or isinstance(element, str | bool | int | float) else Transformer.str(element)


def _new_journal(folder: Path, goal: Goal) -> "Study":
    """An empty study in a new file; that of an earlier attempt goes."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    (folder / STUDY).unlink(missing_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY)))
    return optuna.create_study(study_name=folder.name, storage=storage, direction=goal)


def _best(sweep: Launch, goal: Goal, folders: Sequence[str]) -> list[tuple[str, str]]:
    """The best trial in words, and its command."""
    done = [(sweep.states[job.index].value, job) for job in sweep.jobs if sweep.states[job.index].state == DONE]
    scored = [(value, job) for value, job in done if value is not None and math.isfinite(value)]
    if not scored:
        return []
    choose = max if goal == "maximize" else min
    value, best = choose(scored, key=lambda pair: pair[0])
    words = f"best of {len(sweep.jobs)} trials by validation: {value:.4g}, {best.label}: {best.folder}"
    return [(words, command_line(best.overrides, folders))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna reports each trial; the table does so already."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
