"""A Fisher matrix as Kronecker products, one for each linear and convolutional layer (K-FAC, EKFAC)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.direction.adapted_models import num_tasks
from metarun.algorithm.direction.metric.base import Asked, Solved
from metarun.algorithm.direction.metric.layer_gradients import LayerGradients
from metarun.algorithm.protocols import AdaptedTasks
from metarun.device.precision import precisely
from metarun.device.ranks import Ranks
from metarun.maths.psd import Diagonal, Eigenbasis, Kronecker
from metarun.maths.trees import Params, ravel, unravel
from metarun.models.layers import Layer


@dataclass(frozen=True, kw_only=True)
class Kfac:
    """F at phi on the query inputs, approximated: G kron A for each linear or convolutional layer y = W a, 0 between layers.

    A is the mean of a a' over the layer's inputs a (with a one at their end for the bias), G the sum of g g' over gradients g of
    the layer's outputs whose products add up to the Fisher matrix: not those of the loss, and of no label. Both are averaged over
    all tasks and over outer steps, so that few tasks' noise is in neither. Other parameters (norms, layers whose weights are
    shared or of another kind) have F's diagonal alone.

    Exact for one linear layer with a Gaussian likelihood. Gradients of different examples meet with random signs, drawn anew in
    each step: where a batch norm ties examples together, what is averaged is right in the mean over signs; elsewhere the signs
    have no effect on layers.

    Attributes:
        corrected: in the eigenbasis of G kron A, its eigenvalues are replaced by the means of the squared coordinates of each
            example's gradient (EKFAC): the diagonal of F there, and damping that is added to F and not to the factors.
        memory: of the averages, from step to step: this share of the last step's is kept, or less in the first steps, so that all
            of them weigh the same. 0: of this step alone.
        num_tasks: of how many of the step's tasks each step's share in the averages is made, >= 1; null: of all.
        num_fresh_tasks: other tasks than the gradient's, as of `FreshTasks`, that it is made of; 0: the step's own.
        samples: how many random combinations of the outputs are propagated backwards, each as dear as a gradient, >= 1; null:
            each output for itself, without chance.
    Source: Martens and Grosse 2015 (factors; damping: section 6.3); Grosse and Martens 2016 (convolutions); George et al. 2018
        (EKFAC); signs: Hutchinson 1990.
    """

    corrected: bool
    memory: float
    num_tasks: int | None
    num_fresh_tasks: int
    samples: int | None
    needs_jacobian: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.boolean("corrected", self.corrected)
        checks.number("memory", self.memory, minimum=0, below=1)
        checks.integer("num_fresh_tasks", self.num_fresh_tasks, minimum=0)
        for name in ("num_tasks", "samples"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), minimum=1)

    @precisely
    def at(self, asked: Asked, state: dict[str, Any]) -> tuple["ByLayers", dict[str, Any]]:
        """The averages with this step's tasks in them, and as the state."""
        each = self._gradients(asked)
        layers = each[0].layers
        count = asked.ranks.sum(torch.stack([one.weight * one.count for one in each]).sum())
        before = state["averaged"].to(count) if "averaged" in state else torch.zeros_like(count)
        # The mean over all steps until so many are in it: the first ones, of a few tasks each, count no more than others.
        kept = torch.minimum(before / (before + 1), torch.full_like(before, self.memory))

        def averaged(name: str, sums: Sequence[Tensor]) -> Tensor:
            mean = asked.ranks.sum(sum(sums[1:], sums[0])) / count
            return torch.lerp(mean, state[name].to(mean), kept) if name in state else mean

        now: dict[str, Any] = {"averaged": before + 1}
        if each[0].other:
            now["other"] = averaged("other", [one.other_squares() for one in each])
        factors = []
        for number in range(len(layers)):
            names = f"inputs_{number}", f"outputs_{number}"
            pairs = [one.factors(number) for one in each]
            made = [averaged(name, [pair[side] for pair in pairs]) for side, name in enumerate(names)]
            now |= zip(names, made, strict=True)
            factors.append(Kronecker(*made))
        if not self.corrected:
            return ByLayers(asked.like, layers, factors, now.get("other")), state | now
        corrected = []
        for number, each_factors in enumerate(factors):
            basis, _ = Eigenbasis.of(each_factors)
            names = [f"{what}_{number}" for what in ("inputs_basis", "outputs_basis", "values")]
            if names[2] in state:  # the last values, as they are in this basis
                *bases, values = (state[name].to(basis.inputs) for name in names)
                state = state | {names[2]: basis.diagonal_of(Eigenbasis(*bases), values)}
            values = averaged(names[2], [one.squares(number, basis) for one in each])
            now |= zip(names, (basis.inputs, basis.outputs, values), strict=True)
            corrected.append(Diagonal(basis, values))
        return ByLayers(asked.like, layers, corrected, now.get("other")), state | now

    def _gradients(self, asked: Asked) -> list[LayerGradients]:
        """Of this rank's tasks among those that count; where there are none, of one that counts for nothing."""
        tasks = asked.fresh if self.num_fresh_tasks else asked.step
        first = _first_task(tasks, asked.ranks)
        left = sum(len(chunk.bilevel) for chunk in tasks)
        if self.num_tasks is not None:
            left = max(0, min(left, self.num_tasks - first))
        if left == 0:
            return [LayerGradients.of(tasks[0], asked.like, first, 1, self.samples, weight=0.0)]
        each = []
        for chunk in tasks:
            taken = min(left, len(chunk.bilevel))
            if taken:
                each.append(LayerGradients.of(chunk, asked.like, first, taken, self.samples))
            first, left = first + taken, left - taken
        return each


@dataclass(frozen=True)
class ByLayers:
    """A matrix of one block for each layer, and a diagonal.

    Attributes:
        blocks: of the layers, in their order.
        other: the diagonal of the parameters that are no layer's, raveled in their order; None: there are none.
    """

    like: Params
    layers: Sequence[Layer]
    blocks: Sequence[Kronecker | Diagonal]
    other: Tensor | None

    def solve(self, rhs: Tensor, damping: float | Tensor) -> Solved:
        """Block by block; with factored damping where a block is a product."""
        solution = self._mapped(
            rhs, lambda block, matrix: block.solve(matrix, damping), lambda other, values: values / (other + damping)
        )
        return Solved(solution, (solution * self.apply(solution)).sum().clamp(min=0), {})

    def apply(self, vector: Tensor) -> Tensor:
        """F vector, [1, D]."""
        return self._mapped(vector, lambda block, matrix: block.apply(matrix), torch.mul)

    def _mapped(
        self,
        vector: Tensor,
        of_block: Callable[[Kronecker | Diagonal, Tensor], Tensor],
        of_other: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        given = unravel(vector, self.like)
        found: Params = {}
        for layer, block in zip(self.layers, self.blocks, strict=True):
            (matrix,) = layer.matrix(given)
            found |= layer.leaves(of_block(block, matrix)[None], self.like)
        if self.other is not None:
            rest = {name: leaf for name, leaf in given.items() if name not in found}
            found |= unravel(of_other(self.other, ravel(rest)), rest)
        return ravel({name: found[name] for name in self.like})


def _first_task(tasks: Sequence[AdaptedTasks], ranks: Ranks) -> int:
    """The number of this rank's first task among those of all ranks."""
    return 0 if ranks.size == 1 else int(num_tasks(tasks, ranks)) * ranks.rank // ranks.size
