"""What K-FAC is made of: rows that layers are given, and gradients with respect to their outputs that make up the Fisher matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import rng
from metarun.algorithm.protocols import AdaptedTasks
from metarun.maths.psd import Eigenbasis, root
from metarun.maths.structures import mapped
from metarun.maths.trees import Params, detached, ravel
from metarun.models.layers import Layer, layers_of, recording
from metarun.problems.base import Problem, divergences_of, of_its_classes
from metarun.tasks.types import Data


@dataclass(frozen=True)
class LayerGradients:
    """Of B tasks, each with its own phi: rows of layers, and what the outputs are to them.

    Attributes:
        inputs: for each call of a layer (`label`), its rows, [B, S, T, in].
        columns: for each column of the root of the outputs' metric, gradients with respect to the calls' outputs, [B, S, T, out].
        other: for each column, gradients in the parameters that are no layer's, raveled, [B, d]; empty where there are none.
        count: B.
        weight: 1, or 0 where they are to count for nothing; a scalar.
    """

    layers: list[Layer]
    inputs: Params
    columns: list[Params]
    other: list[Tensor]
    count: int
    weight: Tensor

    @staticmethod
    def of(
        chunk: AdaptedTasks, like: Params, first: int, count: int, samples: int | None, weight: float = 1.0
    ) -> "LayerGradients":
        """By one forward pass and a backward pass for each output.

        Args:
            first: number of the chunk's first task, among all of the step.
            count: how many of its tasks are taken.
            samples: as of `Kfac`.
        """
        bilevel = chunk.bilevel
        problem = bilevel.inner.problem
        params = detached(chunk.gradients.params)
        data = problem.query(bilevel.inner.tasks, params, bilevel.steps)
        if count < len(bilevel):
            data, params = mapped(data, lambda tensor: tensor[:count]), mapped(params, lambda tensor: tensor[:count])
        layers, shifts = _called(problem, layers_of(problem.learner.module, like), params, data)
        own = {name for layer in layers for name in layer.names}
        other = {name: params[name].requires_grad_() for name in like if name not in own}

        def outputs_and_inputs(params: Params, shifts: Params, inputs: Tensor, *norms: Tensor) -> tuple[Tensor, Params]:
            with recording(layers, shifts) as given:
                return problem.outputs(params, inputs, *norms), given

        with torch.enable_grad():
            outputs, given = problem.lift(outputs_and_inputs)(params, shifts, data.inputs, *data.norms)
            outputs = of_its_classes(outputs, data.classes)
        columns = _columns(problem, outputs, data, _keys(bilevel.outer_step, first, count, outputs.device), samples)
        variables = [*shifts.values(), *other.values()]
        found, rest = [], []
        for column in columns:
            gradients = torch.autograd.grad(outputs, variables, column, retain_graph=True, materialize_grads=True)
            of_calls = dict(zip(shifts, gradients[: len(shifts)], strict=True))
            found.append({name: layers[_number(name)].outputs(each) for name, each in of_calls.items()})
            if other:
                rest.append(ravel(dict(zip(other, gradients[len(shifts) :], strict=True))))
        rows = {name: layers[_number(name)].inputs(each.detach()) for name, each in given.items()}
        return LayerGradients(layers, rows, found, rest, count, outputs.new_full((), weight))

    def other_squares(self) -> Tensor:
        """[1, d], the sum over tasks."""
        squares = [column.square().sum(0, keepdim=True) for column in self.other]
        return self.weight * sum(squares[1:], squares[0])

    def factors(self, number: int) -> tuple[Tensor, Tensor]:
        """A and G of a layer, sums over tasks: of inputs the mean over rows, of gradients the sum."""
        calls = [name for name in self.inputs if _number(name) == number]
        inputs = torch.cat([self.inputs[name].flatten(1, 2) for name in calls], 1)
        flat = inputs.flatten(0, 1)
        gradients = torch.cat([column[name].flatten(0, 2) for column in self.columns for name in calls])
        return self.weight * (flat.mT @ flat) / inputs.shape[1], self.weight * (gradients.mT @ gradients)

    def squares(self, number: int, basis: Eigenbasis) -> Tensor:
        """The sum over tasks, examples and columns of the squared coordinates of an example's gradient, [out, in]."""
        turned = {name: rows @ basis.inputs for name, rows in self.inputs.items() if _number(name) == number}
        squares = []
        for column in self.columns:
            parts = [(column[name] @ basis.outputs).mT @ rows for name, rows in turned.items()]
            squares.append(sum(parts[1:], parts[0]).square().sum((0, 1)))
        return self.weight * sum(squares[1:], squares[0])


def _number(call: str) -> int:
    return int(call.split(":")[0])


def _called(problem: Problem, layers: list[Layer], params: Params, data: Data) -> tuple[list[Layer], Params]:
    """Those layers that the model calls, and zeros [B, ...] of the shape of their outputs, one for each call, as variables.

    A layer whose weights are used without a call of it (attention's output layer) is none.
    """
    one = {name: leaf[0] for name, leaf in params.items()}
    with recording(layers) as outputs, torch.no_grad():
        problem.outputs(one, data.inputs[0], *(each[0] for each in data.norms))
    called = {_number(name) for name in outputs}
    if len(called) < len(layers):
        return _called(problem, [layers[number] for number in sorted(called)], params, data)
    tasks = len(data.inputs)
    return layers, {name: each.new_zeros((tasks, *each.shape)).requires_grad_() for name, each in outputs.items()}


def _columns(problem: Problem, outputs: Tensor, data: Data, keys: Tensor, samples: int | None) -> list[Tensor]:
    """Columns of R, shaped as the outputs [B, S, ..., N]: R R' is the divergence's Hessian there; with a sign for each example."""
    point = outputs.detach().requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(
            divergences_of(problem, point, outputs.detach(), data).sum(), point, create_graph=True
        )[0]
    units = torch.eye(outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    hessian = [torch.autograd.grad(gradient, point, unit.expand_as(point), retain_graph=True)[0] for unit in units]
    columns = root(torch.stack(hessian, -1))
    if samples is None:
        signs = _signs(keys, *outputs.shape[1:-1], 1)
        return list((columns * signs[..., None]).unbind(-1))
    drawn = _signs(keys, *outputs.shape[1:-1], samples, columns.shape[-1]).to(columns)
    return [(columns * drawn[..., sample, None, :]).sum(-1) / samples**0.5 for sample in range(samples)]


def _keys(step: int | Tensor, first: int, count: int, device: torch.device) -> Tensor:
    """A number for each task and step."""
    return first + step * 2**20 + torch.arange(count, device=device)


def _signs(keys: Tensor, *shape: int) -> Tensor:
    return (rng.bits(rng.key(0, "signs"), keys, *shape) & 1) * 2 - 1
