"""The parameters that a run begins with where `run.init_from` names some: read, held against the model, and kept."""

import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metarun.algorithm.meta_parameters import BESIDE_THE_MODEL, MetaParameters
from metarun.configuration.start import digest
from metarun.errors import ConfigurationError, DamagedFile
from metarun.files import read_bytes
from metarun.maths.trees import Params
from metarun.run_folder.checkpoints import START, selected
from metarun.run_folder.folder import RunFolder
from metarun.run_folder.state import load, save

_logger = logging.getLogger(__name__)

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Start:
    """Parameters by name, and where they are from.

    Attributes:
        path, sha256: as `metarun.configuration.start` has them.
        step: outer steps that they were trained for; None where the file does not say.
        theta: the parameters; those of a whole module, or the meta-learned ones of a run.
    """

    path: str
    sha256: str
    step: int | None
    theta: Params

    @property
    def record(self) -> dict[str, Any]:
        """What a result says of it."""
        return {"path": self.path, "sha256": self.sha256, "step": self.step}

    @property
    def words(self) -> str:
        """The same for a person."""
        step = "" if self.step is None else f" after step {self.step}"
        return f"parameters of {self.path}{step} (SHA-256 {self.sha256[:8]})"


def start_of_run(folder: RunFolder, config: Mapping[str, Any]) -> Start | None:
    """What the run of a configuration starts from: its own copy where it has one, so that it goes on without the original.

    Returns:
        None: from its seed.
    Raises:
        ConfigurationError: the file is not there, has changed, or holds something else.
    """
    chosen = config.get("init_from")
    if chosen is None:
        return None
    try:
        kept = load(folder.checkpoints / START)
    except (FileNotFoundError, DamagedFile):
        kept = {}
    if kept.get("sha256") == chosen["sha256"]:
        return Start(chosen["path"], kept["sha256"], kept["step"], kept["theta"])
    path = Path(chosen["path"])
    if digest(path) != chosen["sha256"]:
        raise ConfigurationError(
            f"run.init_from: {path} has changed since this run was planned. Give the command again."
        )
    step, theta = _of_run(path) if path.is_dir() else _of_file(path)
    return Start(chosen["path"], chosen["sha256"], step, theta)


def started(theta: MetaParameters, start: Start, module: nn.Module) -> MetaParameters:
    """theta with the values of a start.

    What the algorithm itself meta-learns beside the model is taken where both have it. What is left as it was is said.

    Args:
        theta: as the seed has it.
        module: the model, for the order of its parameters and for what else it holds.
    Raises:
        ConfigurationError: a parameter of the model is missing, has another shape or is not finite, or there is one too many.
    """
    model = theta.adapted | theta.fixed | theta.unlearned
    own = {name: leaf for name, leaf in theta.items() if name not in model}
    given = start.theta
    for name in (*(name for name, _ in module.named_parameters() if name in model), *own):
        leaf = model.get(name, own.get(name))
        assert leaf is not None  # it is in one of them
        if name not in given:
            if name in own or name in theta.unlearned:
                continue
            raise _refused(start, f"has no {name}, a parameter of the model: it holds {_some(given)}")
        if given[name].shape != leaf.shape:
            raise _refused(start, f"has {name} of shape {_shape(given[name])}, and this model's is {_shape(leaf)}")
        if not given[name].is_floating_point() or not bool(given[name].isfinite().all()):
            raise _refused(start, f"has {name} with values that are no finite numbers")
    others = module.state_dict().keys() | {name for name in given if name.rpartition(".")[2] in _STATISTICS}
    passed_over = [name for name in given if name not in model and name not in own]
    for name in passed_over:
        if name not in others and not name.startswith(BESIDE_THE_MODEL):
            raise _refused(start, f"has {name}, and the model has no such parameter")
    aliases = {name for name, leaf in module.named_parameters(remove_duplicate=False) if leaf.requires_grad}
    _say("not taken, as they are nothing that this run learns", [n for n in passed_over if n not in aliases])
    _say(
        "not there, and left as this run's seed and algorithm make them", [n for n in (*model, *own) if n not in given]
    )
    taken = {name: given[name].to(leaf.dtype) for name, leaf in (model | own).items() if name in given}
    return theta.updated(taken)


def keep_start(folder: RunFolder, start: Start, theta: MetaParameters) -> None:
    """Write the start into the run's folder: to go on from, and for what is not learned, which no other checkpoint holds."""
    leaves = {name: leaf.detach() for name, leaf in (theta.unlearned | dict(theta)).items()}
    save(folder.checkpoints / START, start.record | {"theta": leaves})


def _of_run(path: Path) -> tuple[int, Params]:
    checkpoint = selected(RunFolder(path).checkpoints)
    assert checkpoint is not None  # `digest` has read it
    return checkpoint["step"], checkpoint["theta"]


def _of_file(path: Path) -> tuple[int | None, Params]:
    """A checkpoint of metarun's, or the `state_dict` of a module, as it is or under "state_dict"."""
    try:
        content = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise whatever the damage spells
        raise ConfigurationError(
            f"run.init_from: {path} cannot be read as tensors alone (torch.load with weights_only=True). Write it with "
            "torch.save(module.state_dict(), FILE)."
        ) from error
    if isinstance(content, Mapping) and "version" in content and "theta" in content:
        content = load(path)  # which looks at checksums and format
        return content["step"], content["theta"]
    leaves = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(leaves, Mapping) or not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves.values()):
        raise ConfigurationError(
            f"run.init_from: {path} must hold a checkpoint of metarun or the state_dict of a module, and holds neither. "
            "Write it with torch.save(module.state_dict(), FILE)."
        )
    return None, {str(name): leaf for name, leaf in leaves.items()}


def _refused(start: Start, words: str) -> ConfigurationError:
    return ConfigurationError(
        f"run.init_from: {start.path} {words}. Choose the model (and dataset.ways) that it was made with."
    )


def _say(words: str, names: Iterable[str]) -> None:
    names = list(names)
    if names:
        _logger.warning("run.init_from: %s: %s", words, _some(names))


def _some(names: Iterable[str], number: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:number]) + (f" and {len(names) - number} more" if len(names) > number else "")


def _shape(leaf: Tensor) -> str:
    return str(tuple(leaf.shape))
