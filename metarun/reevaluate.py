"""`metarun evaluate RUN_DIR [KEY=VALUE ...]`: a stored run's selected parameters, tested under other settings."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from metarun.build import fitted, make_parts
from metarun.config_folder import config_folder
from metarun.errors import ConfigurationError
from metarun.report.console import results, waiting
from metarun.result import measure_test
from metarun.suggest import closest
from metarun.train.folder import RunFolder, flatten, moved
from metarun.train.state import load


def evaluate_run(run_dir: Path, overrides: Sequence[str]) -> None:
    """Test a run's selected parameters again, under other settings.

    The result is printed and stored in the run's folder under evaluations/; the run's own result stays as it is.

    Args:
        run_dir: a run's folder.
        overrides: KEY=VALUE; keys of the stored configuration, or groups such as device=cpu.
    Raises:
        ConfigurationError: no such run, an unknown key, or a model that the stored parameters do not fit.
    """
    console = Console(highlight=False)
    folder = RunFolder(run_dir)
    stored = folder.read_json(folder.config)
    if stored is None:
        raise ConfigurationError(
            f"{run_dir} must hold a run (a config.json), and it does not. Run folders lie in outputs/."
        )
    best = folder.checkpoints / "best.pt"
    if not best.exists():
        raise ConfigurationError(f"{run_dir} has no selected state yet ({best} is missing); let the run validate once.")
    # Published figures belong to the run's own protocol.
    config = _overridden(stored, overrides) | ({"reference": None} if overrides else {})
    parts = make_parts(config)
    checkpoint = load(best)
    theta = fitted(checkpoint["theta"], parts)
    with waiting(console, f"testing on {parts.evaluator.evaluation.tasks} tasks"):
        result = measure_test(config, parts, theta, checkpoint["step"])
    changed = hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:8]
    path = folder.path / "evaluations" / f"{changed}.json"
    path.parent.mkdir(exist_ok=True)
    result |= {"overrides": list(overrides), "config": config}
    del result["per_task"]
    folder.write_json(path, result)
    results(console, result)
    console.print(f"stored in {path}", soft_wrap=True)


def _overridden(stored: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A stored configuration with KEY=VALUE changes; a group's name swaps the whole group."""
    config = OmegaConf.create(stored)
    OmegaConf.set_struct(config, True)
    known = sorted(flatten(stored))
    for override in overrides:
        key, _, value = override.partition("=")
        if key and (config_folder() / key).is_dir():
            options = sorted(path.stem for path in (config_folder() / key).glob("*.yaml"))
            if value not in options:
                near = closest(value, options)
                hint = f"; did you mean {near}?" if near else "."
                raise ConfigurationError(f"{key} has no option {value!r}{hint} Options: {', '.join(options)}.")
            with initialize_config_dir(str(config_folder()), version_base="1.3"):
                group = key.replace("/", ".")
                OmegaConf.update(config, group, OmegaConf.select(compose("config", [override]), group), merge=False)
            config.choices[key] = value
            continue
        if OmegaConf.select(config, key, default=...) is ...:
            near = closest(key, known)
            raise ConfigurationError(
                f"the run's configuration has no key {key}{f'; did you mean {near}?' if near else '.'}"
            )
        try:
            OmegaConf.update(config, key, OverridesParser.create().parse_override(override).value())
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigurationError(f"{override!r} cannot be read: {str(error).splitlines()[0]}") from error
    resolved = OmegaConf.to_container(config, resolve=True)
    return moved(resolved, stored["data"], resolved["data"])
