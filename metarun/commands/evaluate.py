"""`metarun evaluate RUN_DIR [KEY=VALUE ...]`: a stored run's selected parameters, tested under other settings."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from metarun.build import fitted, make_parts
from metarun.commands.other_domain import as_trained, domain_of, domain_words
from metarun.commands.result import measure_test, require_score
from metarun.configuration.config_folder import config_folder
from metarun.configuration.did_you_mean import closest
from metarun.configuration.schema import check_value, plain
from metarun.configuration.trusted import named_in, require_resolved, require_trusted
from metarun.console.notes import shown
from metarun.console.progress import testing, waiting
from metarun.console.results import results
from metarun.console.terminal import say, terminal
from metarun.errors import ConfigurationError
from metarun.run_folder.checkpoints import selected
from metarun.run_folder.data_record import check_same_data, own_data, store_of
from metarun.run_folder.earlier_versions import of_today
from metarun.run_folder.folder import RunFolder, fingerprint, flatten, moved
from metarun.run_folder.source_record import changed_sources

_logger = logging.getLogger("metarun")
_OF_VALIDATION = {"dataset.val_ways", "evaluation.val_shots", "evaluation.val_queries"}


def evaluate_run(
    run_dir: Path, overrides: Sequence[str], allowed: Sequence[str] = (), console: Console | None = None
) -> dict[str, Any]:
    """Test a run's selected parameters again, under other settings.

    The result is printed and stored in the run's folder under evaluations/; the run's own result stays as it is.

    Args:
        run_dir: a run's folder.
        overrides: KEY=VALUE; keys of the stored configuration, or groups such as device=cpu.
        allowed: classes beside metarun's and torch's that the stored configuration may name.
        console: where to print; standard output by default.
    Returns:
        What was stored.
    Raises:
        ConfigurationError: no such run, a class that nobody allowed, an unknown key, a model that the stored parameters do
            not fit, or images that have changed although the overrides name no others.
        TrainingError: the test gave no score; it is stored and printed even so.
    """
    console = console or terminal()
    folder = RunFolder(run_dir)
    stored = folder.read_config()
    if stored is None:
        raise ConfigurationError(
            f"{run_dir} must hold a run (a config.json), and it does not. Run folders lie in outputs/."
        )
    with shown(console):
        checkpoint = selected(folder.checkpoints)
        if checkpoint is None:
            best = folder.checkpoints / "best.pt"
            raise ConfigurationError(
                f"{run_dir} has no selected state yet ({best} is missing); let the run validate once."
            )
        if checkpoint["fingerprint"] != fingerprint(stored):
            _logger.warning(
                "%s is not the configuration that the run was trained by: it was changed, or another version wrote it",
                folder.config,
            )
    require_resolved(stored)
    # Published figures belong to the run's own protocol.
    stored = of_today(stored)
    config, other = _overridden(stored, overrides)
    config |= {"reference": None} if overrides else {}
    require_trusted(config, {*allowed, *(name for override in overrides for name in named_in(override))})
    with shown(console), waiting(console, "preparing data and model"):
        parts = make_parts(config, is_trained_here=other is None)
        for file in changed_sources(folder):
            _logger.warning("%s has changed since this run was made: what is tested here is the new one", file)
    own, store = own_data(config), store_of(parts.source)
    if store is not None and own and own == own_data(stored):
        check_same_data(folder, store, "this run was trained on", "name others to test on them")
    domains = {"trained_on": domain_of(stored), "tested_on": domain_of(config)}
    if domains["trained_on"] != domains["tested_on"]:
        say(console, ("note", "bold"), f": {domain_words(stored, config, other)}")
    theta = fitted(checkpoint["theta"], parts.theta, parts.device, parts.dtype)
    with testing(console, parts.evaluator.evaluation.tasks) as advanced:
        result = measure_test(config, parts, theta, checkpoint["step"], advanced)
    changed = hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:8]
    path = folder.path / "evaluations" / f"{changed}.json"
    path.parent.mkdir(exist_ok=True)
    scores = {str(each.inner_steps): each.metrics[result["score"]] for each in result.pop("per_task")}
    result |= {"overrides": list(overrides), "config": config, "task_scores": scores, **domains}
    folder.write_json(path, result)
    results(console, result)
    console.print(f"stored in {path}", soft_wrap=True)
    require_score(result)
    return result


def _overridden(stored: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A stored configuration with KEY=VALUE changes; a group's name swaps the whole group, before any key is changed.

    Another data set is taken with the sizes that the run was trained on (`as_trained`).

    What a run stores is resolved, so a key that took another's value (`evaluation.shots: ${dataset.test_shots}`) is
    changed along with it, unless the run had set it apart or an override gives it a value of its own. What validation was
    like stays: it selected the state that is tested.

    Returns:
        The configuration, and the settings of the other data set as its file has them, or None.
    """
    config = OmegaConf.create(stored)
    OmegaConf.set_struct(config, True)
    known = sorted(flatten(stored))
    followers = _followers(stored) if overrides else {}
    given = {override.partition("=")[0] for override in overrides} | _OF_VALIDATION
    other = None
    for override in sorted(overrides, key=lambda override: not _is_group(override)):
        key, _, value = override.partition("=")
        if _is_group(override):
            if key == "dataset" and value == stored["choices"]["dataset"]:
                continue  # the run's own, with its own split: other settings of it could put training classes into the test
            options = sorted(path.stem for path in (config_folder() / key).glob("*.yaml"))
            if value not in options:
                near = closest(value, options)
                hint = f"; did you mean {near}?" if near else "."
                raise ConfigurationError(f"{key} has no option {value!r}{hint} Options: {', '.join(options)}.")
            with initialize_config_dir(str(config_folder()), version_base="1.3"):
                group = key.replace("/", ".")
                chosen = OmegaConf.select(compose("config", [override]), group)
            if key == "dataset":
                other = plain(chosen, resolve=False)
                chosen = as_trained(value, other, stored["dataset"])
            OmegaConf.update(config, group, chosen, merge=False)
            config.choices[key] = value
            continue
        if not key:
            raise ConfigurationError(f"{override!r} has no key before its '=': write KEY=VALUE.")
        if key.partition(".")[0] in ("choices", "reference", "init_from") or key == "run.init_from":
            raise ConfigurationError(f"{key} says what the run was, and an evaluation does not change it.")
        if OmegaConf.select(config, key, default=...) is ...:
            near = closest(key, known)
            raise ConfigurationError(
                f"the run's configuration has no key {key}{f'; did you mean {near}?' if near else '.'}"
            )
        try:
            parsed = OverridesParser.create().parse_override(override)
            if parsed.is_sweep_override():
                raise ConfigurationError(f"{override} gives several values; write '{key}=[{value}]' for one list.")
            check_value(
                key,
                parsed.value(),
                plain(OmegaConf.create({"is": OmegaConf.select(config, key)}), resolve=False)["is"],
            )
            for changed in _with_followers(key, followers, given):
                OmegaConf.update(config, changed, parsed.value())
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigurationError(f"{override!r} cannot be read: {str(error).splitlines()[0]}") from error
    try:
        resolved = plain(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(str(error).splitlines()[0]) from error
    return moved(resolved, stored["data"], resolved["data"]), other


def _is_group(override: str) -> bool:
    key = override.partition("=")[0]
    return bool(key) and (config_folder() / key).is_dir()


def _with_followers(key: str, followers: Mapping[str, set[str]], given: set[str]) -> list[str]:
    """`key`, what follows it, and what follows that; but no key in `given`, nor what follows it alone."""
    behind = [_with_followers(follower, followers, given) for follower in sorted(followers.get(key, set()) - given)]
    return [key, *(name for names in behind for name in names)]


def _followers(stored: dict[str, Any]) -> dict[str, set[str]]:
    """Key -> the keys that the files of the stored choices set to it, and that have its value in the stored configuration."""
    choices, options = stored["choices"], []
    for group, option in choices.items():
        above = {group: option} | {str(parent): choices.get(str(parent)) for parent in Path(group).parents[:-1]}
        # A user's own option is not among the files, and which parts it has is then not known either.
        if all((config_folder() / name / f"{chosen}.yaml").is_file() for name, chosen in above.items()):
            options.append(f"{group}={option}")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        written = flatten(plain(compose("config", options), resolve=False))
    values = flatten(stored)
    found: dict[str, set[str]] = {}
    for key, value in written.items():
        source = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if source and source[1] in values and key in values and values[key] == values[source[1]]:
            found.setdefault(source[1], set()).add(key)
    return found
