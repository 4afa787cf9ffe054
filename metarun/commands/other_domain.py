"""A data set that a run was not trained on, made such that its model fits: what changes in its settings, and why not."""

from collections.abc import Mapping
from typing import Any

from metarun.errors import ConfigurationError
from metarun.tasks.sources.catalogue import is_inverted

_KEPT = ("ways", "test_ways", "shots", "queries", "test_shots", "test_queries")
"""Sizes of tasks that stay the run's own."""
_COLOURS = {1: "grey", 3: "colour"}


def as_trained(option: str, dataset: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a data set, with the sizes of tasks and of images that a run was trained on.

    Of a person's own images all classes are for the test, unless the folder or an override say otherwise: none was trained on.

    Args:
        option: its name, `dataset=OPTION`.
        dataset: its settings as its file has them, references unresolved.
        trained: those of the run's own data set, resolved.
    Raises:
        ConfigurationError: it is of another kind of problem, or its examples cannot be made to fit.
    """
    kinds = [str(settings["problem"]["_target_"]).rpartition(".")[2] for settings in (trained, dataset)]
    if kinds[0] != kinds[1]:
        raise ConfigurationError(
            f"the run learned {_words(kinds[0])}, and dataset={option} is for {_words(kinds[1])}: its model cannot be tested there."
        )
    fitted = dict(dataset) | {key: trained[key] for key in _KEPT if key in dataset and key in trained}
    if "ways" in dataset:
        fitted["output_size"] = trained.get("output_size")
    elif _is_other(trained.get("output_size"), dataset.get("output_size")):
        raise ConfigurationError(
            f"the run's model has {trained['output_size']} output(s), and dataset={option} asks for {dataset['output_size']}."
        )
    if "val_ways" in dataset:
        fitted["val_ways"] = None  # those of the test: nothing is validated
    if "split_fractions" in dataset and "standardise" not in dataset:  # that is by the training classes
        fitted["split_fractions"] = [0, 0, 1]
    shape, here = trained.get("input_shape"), dataset.get("input_shape")
    if not _is_image(shape) or not _is_image(here):
        if shape is not None and here is not None and _is_image(shape) != _is_image(here):
            own = "images" if _is_image(shape) else "no images"
            other = "images" if _is_image(here) else "none"
            raise ConfigurationError(f"the run was trained on {own}, and dataset={option} has {other}.")
        if shape is not None and here is not None and shape != here:
            raise ConfigurationError(
                f"the run was trained on examples of {_sizes(shape)} numbers, and those of dataset={option} have {_sizes(here)}."
            )
        return fitted
    assert shape is not None and here is not None  # images
    channels, size = shape[0], shape[-1]
    fitted["input_shape"] = list(shape)
    if "image_size" in dataset:
        fitted["image_size"] = size
    if "channels" in dataset:
        fitted["channels"] = channels
    elif here[0] != channels:
        fitted["source"] = {**dataset["source"], "channels": channels}
    # Ink is white where a model was trained on drawings, and black in a file: as `metarun predict` gives images to it.
    if _is_drawn(trained) != _is_drawn(dataset):
        fitted["source"] = {**fitted["source"], "inverted": True}
    return fitted


def domain_of(config: Mapping[str, Any]) -> str:
    """The data set of a configuration: the name of its option, with the path where the data are the user's own."""
    path = config["dataset"].get("path")
    name = str(config["choices"]["dataset"])
    return f"{name} {path}" if isinstance(path, str) else name


def domain_words(stored: Mapping[str, Any], config: Mapping[str, Any], dataset: Mapping[str, Any] | None) -> str:
    """What a person should know of a test on another domain.

    Args:
        stored: the run's configuration.
        config: that of the test.
        dataset: the settings of the other data set as its file has them; None where it is the same data set elsewhere.
    """
    words = f"another domain: trained on {domain_of(stored)}, tested on {domain_of(config)}"
    shape = config["dataset"].get("input_shape")
    if dataset is None or not _is_image(shape):
        return words
    usual = dataset["channels"] if "channels" in dataset else dataset["input_shape"][0]
    made = [f"resized to {shape[-1]}x{shape[-2]}"] if dataset.get("image_size") != shape[-1] else []
    made += [f"made {_COLOURS.get(shape[0], f'of {shape[0]} channels')}"] if usual != shape[0] else []
    made += ["inverted"] if config["dataset"]["source"].get("inverted") else []
    listed = " and ".join(filter(None, [", ".join(made[:-1]), *made[-1:]]))
    return f"{words}; its images are {listed}, as in training" if made else words


def _is_other(one: Any, other: Any) -> bool:
    """Whether two sizes are known and differ."""
    return isinstance(one, int) and isinstance(other, int) and one != other


def _is_drawn(dataset: Mapping[str, Any]) -> bool:
    """Whether its images are drawings whose ink is white."""
    store = dataset["source"].get("store")
    return isinstance(store, Mapping) and is_inverted(store)


def _is_image(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 3


def _sizes(shape: Any) -> str:
    return "x".join(map(str, shape)) if isinstance(shape, list) else str(shape)


def _words(problem: str) -> str:
    return {"PolicyGradient": "policies"}.get(problem, problem.lower())
