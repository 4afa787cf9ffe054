"""A trained run, taken up from its folder to adapt its model to a new task."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarun.algorithm import Algorithm
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.build import example_inputs, fitted, make_learner, numbers_like_inputs
from metarun.commands.evaluate import evaluate_run
from metarun.configuration.instantiate import make, named
from metarun.configuration.trusted import require_resolved, require_trusted, untrusted_classes
from metarun.console.terminal import terminal
from metarun.device.settings import Device
from metarun.errors import ConfigurationError, TrainingError
from metarun.models.head import parameters_of
from metarun.models.learner import Learner
from metarun.problems.base import Problem
from metarun.run_folder.checkpoints import selected
from metarun.run_folder.data_record import provenance_of
from metarun.run_folder.earlier_versions import of_today
from metarun.run_folder.folder import RunFolder
from metarun.tasks.types import Examples, TaskBatch, TaskSource
from metarun.trained.adapted import AdaptedModel
from metarun.trained.inputs import Inputs, Scale, inputs_of, scale_of
from metarun.trained.labels import classes_of
from metarun.trained.module import AdaptedModule
from metarun.training.evaluate import Evaluation

_logger = logging.getLogger(__name__)

_STORED = ("metarun.tasks.episodes.Episodes", "metarun.tasks.stored_regression.StoredRegression")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRun:
    """A run's model as validation selected it.

    Attributes:
        path: the run's folder.
        config: its resolved configuration.
        result: what its result.json holds; None while it is not finished.
        step: the outer step after which the state was selected.
        theta: its meta-parameters.
        inputs: what makes the model's inputs of what a person gives.
        steps: inner steps that `adapt` takes by default: those of the run's result.
        target_scale: how a regression's targets were standardised in training; None: they were not.
    """

    path: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    step: int
    algorithm: Algorithm
    problem: Problem
    learner: Learner
    theta: MetaParameters
    inputs: Inputs
    steps: int
    target_scale: Scale | None
    device: torch.device
    dtype: torch.dtype

    def adapt(self, inputs: Any, targets: Any, steps: int | None = None, *, prepared: bool = False) -> AdaptedModel:
        """The model adapted to a support set, by the inner solver that it was trained with.

        Args:
            inputs: of the support examples, S of them. Of a run on images: PIL images, paths, tensors or arrays, as a file has
                them (`metarun.trained.inputs.ImageInputs`); else numbers, [S, *input_shape].
            targets: of a classification a label for each example, any text or whole number, any number of examples of each; of a
                regression numbers [S] or [S, outputs].
            steps: inner steps; None: `self.steps`.
            prepared: `inputs` are the model's own already, such as those of a task of the run's data set.
        Returns:
            The adapted model.
        Raises:
            ValueError: inputs or targets do not fit the model.
            TrainingError: the adapted parameters are not finite.
        """
        if self.problem.data_depend_on_params:
            raise ValueError(
                "a policy is adapted to episodes that it collects itself, not to examples. `evaluate` tests it on tasks of its "
                "environment."
            )
        whites = {} if prepared else self.inputs.whites(inputs)
        given = self.model_inputs(inputs, prepared, whites)
        if not prepared and (doubts := self.inputs.doubts(given)):
            _logger.warning("%s", doubts)
        steps = self.steps if steps is None else steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"steps must be a whole number >= 0, got {steps!r}")
        theta, classes = self.theta, None
        if self.problem.score == "accuracy":
            classes, ids = classes_of(targets, len(given))
            theta = self._with_outputs(len(classes))
            wanted = torch.tensor(ids, device=self.device)
        else:
            wanted = self.targets(targets, len(given))
            wanted = wanted if self.target_scale is None else self.target_scale(wanted)
        support = Examples(given[None], wanted[None], None if classes is None else len(classes))
        phi = self.algorithm.adapt(theta, self.problem, TaskBatch(support, None, {}), steps)
        if not all(bool(torch.isfinite(leaf).all()) for leaf in phi.values()):
            raise TrainingError(
                f"the parameters are not finite after {steps} inner steps on these {len(given)} examples. Take fewer steps"
            )
        return AdaptedModel(
            run=self,
            phi={name: leaf[0] for name, leaf in phi.items()},
            classes=classes,
            steps=steps,
            support=given,
            whites=whites,
        )

    def module(self) -> torch.nn.Module:
        """The model at theta, before any adaptation: a plain module with parameters of its own, for prepared inputs."""
        return AdaptedModule(self.learner, self.theta.start | self.theta.shared, None, None)

    def evaluate(self, *overrides: str) -> dict[str, Any]:
        """Test again on tasks of a data set, as `metarun evaluate` does; the result is stored in the run's folder.

        Args:
            overrides: KEY=VALUE, such as "evaluation.tasks=1000" or "dataset=cub".
        Returns:
            What was stored: `results`, a row for each number of inner steps, and the `protocol`.
        Raises:
            ConfigurationError: an override that cannot be, or data that are not here.
            TrainingError: the test gave no score.
        """
        made = untrusted_classes(self.config)  # `load` was allowed to make them
        return evaluate_run(self.path, overrides, made, terminal(quiet=True))

    def model_inputs(self, inputs: Any, is_prepared: bool = False, whites: Mapping[int, int] | None = None) -> Tensor:
        """What a person gives as the model's inputs, [S, *input_shape], on the device.

        Args:
            is_prepared: they are the model's own already.
            whites: of the support set that they go with (`Inputs.whites`).
        Raises:
            ValueError: they do not fit the model.
        """
        if is_prepared:
            given = torch.as_tensor(inputs)
            if given.shape[1:] != self.inputs.shape or len(given) == 0:
                shape = ", ".join(map(str, self.inputs.shape))
                raise ValueError(f"prepared inputs must have the shape [S, {shape}], got {list(given.shape)}")
        else:
            given = self.inputs(inputs, self.inputs.whites(inputs) if whites is None else whites)
        return given.to(self.device, self.dtype) if given.is_floating_point() else given.to(self.device)

    def targets(self, targets: Any, number: int) -> Tensor:
        """A regression's targets [S, outputs], on the device.

        Raises:
            ValueError: they are no finite numbers, or not as many as inputs.
        """
        # By NumPy, whose numbers are of 64 bits where they are Python's.
        numbers = targets if isinstance(targets, Tensor) else torch.from_numpy(np.asarray(targets))
        wanted = numbers.to(self.device, self.dtype)
        size = self.config["dataset"]["output_size"]
        wanted = wanted[:, None] if wanted.dim() == 1 and size == 1 else wanted
        if wanted.shape != (number, size) or not bool(torch.isfinite(wanted).all()):
            raise ValueError(
                f"targets must be finite numbers of shape {[number, size]}, got {list(wanted.shape)}"
                + ("" if wanted.shape != (number, size) else " with some that are not finite")
            )
        return wanted

    def _with_outputs(self, ways: int) -> MetaParameters:
        """theta, with a head of as many outputs as there are classes where the solver makes the head from the support set."""
        size = self.config["dataset"]["output_size"]
        if ways <= size:
            return self.theta
        if self.algorithm.inner.descends:
            raise ValueError(
                f"this model has {size} outputs, and the support set {ways} classes. Give at most {size}, or train with "
                f"dataset.output_size={ways} (algorithm=protonet and r2d2 take any number)"
            )
        names = parameters_of(self.learner.module, self.learner.head)
        rows = {name: self.theta.start[name] for name in names}
        wider = {name: leaf.new_zeros(ways, *leaf.shape[1:]) for name, leaf in rows.items()}
        return replace(self.theta, adapted=self.theta.adapted | wider)


def load(
    run_dir: str | os.PathLike[str], *, batch_norm: str = "support", device: str = "auto", allow: Sequence[str] = ()
) -> TrainedRun:
    """Take up a run's model, as validation selected it. Its data set need not be there.

    >>> run = load("outputs/waves")
    >>> adapted = run.adapt([-1.0, 0.0, 2.0], [0.5, 1.0, -1.0])
    >>> adapted.predict([0.3, 0.4]).shape
    torch.Size([2, 1])

    Args:
        run_dir: the run's folder.
        batch_norm: where a query's batch statistics come from: "support", the support set, so that predictions do not depend on
            each other; or "transductive", all examples of one call, as in most runs' own tests. There a call that is unlike
            the queries of training (a single image, images of one class) is predicted far worse: docs/trained_models.md.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        allow: classes beside metarun's and torch's that the folder may name, such as "my_package.MyNet": to load them is to run
            their code.
    Raises:
        ConfigurationError: no such run, nothing selected yet, a class that nobody allowed, or parameters that do not fit.
    """
    folder = RunFolder(Path(run_dir))
    stored = folder.read_config()
    if stored is None:
        raise ConfigurationError(
            f"{run_dir} must hold a run (a config.json), and it does not. Run folders lie in outputs/."
        )
    checkpoint = selected(folder.checkpoints)
    if checkpoint is None:
        raise ConfigurationError(
            f"{run_dir} has no selected state yet ({folder.checkpoints / 'best.pt'} is missing); let the run validate once."
        )
    require_resolved(stored)
    config = of_today(stored)
    require_trusted(config, allow)
    provenance = provenance_of(folder)
    config = _with_sizes(config, provenance)
    place = {"kind": device, "threads": None, "program": "auto", "tf32": False}
    settings: Device = make(config | {"device": config["device"] | place}, "device")
    where, dtype = settings.open(), settings.torch_dtype
    algorithm: Algorithm = make(config, "algorithm")
    evaluation: Evaluation = make(config, "evaluation")
    example = _example(config)
    normalised = config | {"batch_norm": batch_norm}
    learner = make_learner(normalised, dtype, lambda: example, config["dataset"]["output_size"])
    # One task at a time: there is nothing to be gained from `vmap`, for which not every operation has a rule.
    learner.one_by_one = "one task"
    problem: Problem = make(config, "dataset.problem", learner=learner.to("cpu", dtype))
    with named("algorithm", config):
        theta = algorithm.meta_parameters(problem, learner.init(dtype=dtype))
    theta = fitted(checkpoint["theta"], theta, where, dtype)
    learner.to(where, dtype)
    return TrainedRun(
        path=folder.path,
        config=config,
        result=folder.read_result(),
        step=checkpoint["step"],
        algorithm=algorithm,
        problem=problem,
        learner=learner,
        theta=theta,
        inputs=inputs_of(config["dataset"], example[0], provenance),
        steps=evaluation.measured_steps(algorithm.inner.steps)[-1],
        target_scale=scale_of(provenance, "standardised_target"),
        device=where,
        dtype=dtype,
    )


def _with_sizes(config: Mapping[str, Any], provenance: Mapping[str, str]) -> dict[str, Any]:
    """The configuration with the sizes that are left to the data, as the run wrote them down or as its source says."""
    dataset = dict(config["dataset"])
    for key, name in (("input_shape", "input_shape"), ("output_size", "num_outputs")):
        if key in dataset and dataset[key] is None:
            if name in provenance:
                dataset[key] = json.loads(provenance[name])
            else:
                source: TaskSource = make(config, "dataset.source")
                dataset[key] = list(source.input_shape) if key == "input_shape" else source.output_size
    return {**config, "dataset": dataset}


def _example(config: Mapping[str, Any]) -> Tensor:
    """Inputs of a few examples. A set of classes is not opened for it: its files need not be there, and its shape is known."""
    dataset = config["dataset"]
    shape = dataset.get("input_shape")
    if dataset["source"]["_target_"] in _STORED and shape is not None:
        return numbers_like_inputs(shape)
    return example_inputs(make(config, "dataset.source"), config["schedule"]["shots"])
