"""From a composed configuration to plain values, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig, OmegaConf

from metarun.configuration.config_folder import SEVERAL
from metarun.configuration.instantiate import make
from metarun.configuration.schema import check_places, check_shape, plain, refuse_hydra_folders
from metarun.configuration.start import start_of
from metarun.errors import ConfigurationError
from metarun.json_text import not_finite


def resolved(cfg: DictConfig, hydra: DictConfig | HydraConf) -> dict[str, Any]:
    """The whole configuration as plain values, with the group choices that led to it under `choices`.

    What `run.init_from` names is under `init_from`, with the hash of its content.

    Args:
        cfg: the composed configuration.
        hydra: Hydra's own, of the same composition.
    Raises:
        ConfigurationError: an unknown or a missing key, a value of another kind than in the files, a path that is none, or a
            number that is NaN or infinite: files of JSON could not keep it.
    """
    choices = all_choices(cfg, hydra)
    sources = [
        source.path for source in hydra.runtime.config_sources if source.provider not in ("hydra", "main", "schema")
    ]
    refuse_hydra_folders(hydra)
    folders = [path.removeprefix("file://") for path in sources]
    check_shape(cfg, choices, folders, list(hydra.overrides.task))
    config = plain(cfg, resolve=True, throw_on_missing=True)
    for key, value in not_finite(config).items():
        raise ConfigurationError(f"{key} must be a finite number, got {value}")
    config["choices"] = {group: choice for group, choice in choices.items() if "hydra/" not in group}
    check_places(config)
    _check_reference(config["reference"])
    make(config, "gradients")  # which a run does not read
    for key in ("root", "cache"):
        config["data"][key] = str(Path(config["data"][key]).expanduser())
    start = config["run"]["init_from"]
    return _with_expanded_data(cfg, config) | ({"init_from": start_of(start)} if start is not None else {})


def all_choices(cfg: DictConfig, hydra: DictConfig | HydraConf) -> dict[str, Any]:
    """The option chosen in each group; of several trackers the list of them, which Hydra does not report.

    Each of them lies in a package of its name.
    """
    choices = dict(hydra.runtime.choices)
    if SEVERAL not in choices and isinstance(cfg.get(SEVERAL), DictConfig):
        choices[SEVERAL] = [str(name) for name in cfg[SEVERAL]]
    return choices


def _check_reference(reference: Any) -> None:
    """Refuse published figures that could not be printed, which is done after all the training.

    Raises:
        ConfigurationError: they are not as `metarun.report.published` takes them.
    """
    texts, known = ("source", "metric", "differences"), {"source", "metric", "differences", "values"}
    if reference is None:
        return
    if not isinstance(reference, Mapping) or not known <= {*reference}:
        raise ConfigurationError(
            f"reference must be null or have source, metric, values and differences, got {reference!r}"
        )
    for key in texts:
        if not isinstance(reference[key], str):
            raise ConfigurationError(f"reference.{key} must be a text, got {reference[key]!r}")
    values = reference["values"]
    for steps, value in values.items() if isinstance(values, Mapping) else [(None, None)]:
        if not (str(steps).isdecimal() and isinstance(value, int | float) and not isinstance(value, bool)):
            raise ConfigurationError(
                f"reference.values must have a number for each number of inner steps, got {values!r}"
            )
    settings = reference.get("settings")
    if not isinstance(settings, Mapping | None):
        raise ConfigurationError(f"reference.settings must be keys of this configuration, got {settings!r}")


def _with_expanded_data(cfg: DictConfig, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration resolved again with `~` expanded, so that whatever refers to the data folders has them whole."""
    copy = cfg.copy()
    OmegaConf.set_struct(copy, False)
    copy.data = config["data"]
    return plain(copy, resolve=True, throw_on_missing=True) | {"choices": config["choices"]}
