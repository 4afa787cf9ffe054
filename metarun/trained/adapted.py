"""A model that was adapted to one task."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metarun.errors import TrainingError
from metarun.maths.trees import Params
from metarun.problems.base import outputs_of
from metarun.tasks.types import Examples
from metarun.trained.labels import labels_in
from metarun.trained.module import AdaptedModule

if TYPE_CHECKING:
    from metarun.trained.run import TrainedRun


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptedModel:
    """The model of a run at phi, the parameters adapted to a support set.

    Its batch norms take the statistics of the support set, so that predictions do not depend on each other, unless the run was
    loaded with `batch_norm="transductive"`: then the examples of one call are normalised together (`depends_on_others`).

    Attributes:
        phi: all parameters, without task axis.
        classes: the labels in the order of the outputs; None for a regression.
        steps: inner steps that were taken.
        support: the support set's inputs, [S, *input_shape].
        whites: how its greys of more than 8 bits were read; a query's are read alike.
    """

    run: TrainedRun
    phi: Params
    classes: tuple[Hashable, ...] | None
    steps: int
    support: Tensor
    whites: Mapping[int, int]

    @property
    def depends_on_others(self) -> bool:
        """Whether a prediction depends on the other examples of the same call."""
        return self.run.learner.batch_norm == "transductive"

    def predict(self, inputs: Any, *, prepared: bool = False) -> list[Any] | Tensor:
        """The most probable label of each example; of a regression, outputs [Q, outputs] on the CPU.

        Args:
            inputs: as `TrainedRun.adapt` takes them.
            prepared: they are the model's own already.
        Raises:
            ValueError: they do not fit the model.
            TrainingError: an output is not finite.
        """
        outputs = self.outputs(inputs, prepared=prepared)
        if self.classes is None:
            return outputs
        return [self.classes[place] for place in outputs.argmax(-1).tolist()]

    def probabilities(self, inputs: Any, *, prepared: bool = False) -> Tensor:
        """Of each class, [Q, N] in the order of `classes`, on the CPU; arguments and errors as `predict`."""
        if self.classes is None:
            raise ValueError("a regression has no probabilities: `predict` gives its outputs")
        return self.outputs(inputs, prepared=prepared).softmax(-1)

    def outputs(self, inputs: Any, *, prepared: bool = False) -> Tensor:
        """Logits [Q, N], or what a regression predicts, on the CPU; arguments and errors as `predict`.

        Predictions are in the units of the targets as a person has them, whether these were standardised in training or not.
        """
        given = self.run.model_inputs(inputs, prepared, self.whites)
        with torch.no_grad():
            found = self._outputs(given)
        if not bool(torch.isfinite(found).all()):
            raise TrainingError(f"the outputs are not finite after {self.steps} inner steps. Adapt with fewer")
        scale = self.run.target_scale
        return (found if scale is None else scale.back(found)).cpu()

    def evaluate(self, inputs: Any, targets: Any, *, prepared: bool = False) -> dict[str, float]:
        """The run's metrics on examples whose targets are known: accuracy in [0, 1] and loss, or mse.

        Args:
            targets: as `TrainedRun.adapt` takes them, of the same classes.
        Raises:
            ValueError: inputs or targets do not fit the model.
            TrainingError: an output is not finite.
        """
        outputs = self.outputs(inputs, prepared=prepared)
        if self.classes is None:
            wanted = self.run.targets(targets, len(outputs)).cpu()
        else:
            ids = {label: place for place, label in enumerate(self.classes)}
            labels = labels_in(targets)
            if len(labels) != len(outputs) or not set(labels) <= ids.keys():
                known = ", ".join(map(str, self.classes))
                raise ValueError(f"targets must be {len(outputs)} labels of {known}, got {labels}")
            wanted = torch.tensor([ids[label] for label in labels])
        return {name: float(value) for name, value in self.run.problem.metrics(outputs, wanted).items()}

    def module(self) -> nn.Module:
        """A plain module with phi for parameters: prepared inputs [Q, *input_shape] -> outputs [Q, N]."""
        support = self.support if self.run.learner.normalises_by_support else None
        return AdaptedModule(self.run.learner, self.phi, self._num_outputs, support)

    def export(self, path: Any) -> None:
        """Write the model with its preprocessing: `model.pt2` (torch.export) or `model.onnx` (`metarun.trained.model_file`)."""
        from metarun.trained.model_file import export

        export(self, path)

    @property
    def _num_outputs(self) -> int | None:
        return None if self.classes is None else len(self.classes)

    def _outputs(self, given: Tensor) -> Tensor:
        problem = self.run.problem
        data = Examples(given[None], torch.zeros(1, len(given), device=given.device), self._num_outputs)
        if self.run.learner.normalises_by_support:
            data = data.normalised_by(Examples(self.support[None], data.targets))
        return outputs_of(problem, {name: leaf[None] for name, leaf in self.phi.items()}, data)[
            0, :, : self._num_outputs
        ]
