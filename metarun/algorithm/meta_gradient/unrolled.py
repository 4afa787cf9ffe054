"""Meta-gradient by differentiation through the inner solver's steps (MAML)."""

import math
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.bilevel import Bilevel, TaskGradients
from metarun.algorithm.compatible import need_differentiable
from metarun.algorithm.inner.loop import solve, trajectory
from metarun.algorithm.protocols import InnerSolver, Jacobian
from metarun.algorithm.proximal import ProximalTerm
from metarun.device.stages import stage
from metarun.maths.trees import Params, detached, ravel, unravel


@dataclass(frozen=True)
class Unrolled:
    """The exact gradient of the query loss at the solver's last iterate.

    Attributes:
        recompute: keep phi after each sqrt(steps)-th step alone and take the steps between anew in the backward pass: memory
            grows with the square root of the number of steps in place of the number, for one more forward pass; the same bits.
    Source: Finn et al. 2017, algorithm 2; Chen et al. 2016, section 4.1 (square root of memory).
    """

    recompute: bool = False
    is_gradient: ClassVar[bool] = True
    learns_solver: ClassVar[bool] = True
    learns_regulariser: ClassVar[bool] = True
    jacobian_has_fixed: ClassVar[bool] = True
    jacobian_is_linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.boolean("recompute", self.recompute)

    def check(self, solver: InnerSolver, term: ProximalTerm) -> None:
        """Raise `ValueError` unless the solver can be differentiated."""
        need_differentiable("Unrolled", solver)

    def estimate(self, bilevel: Bilevel) -> TaskGradients:
        """One backward pass through everything, in one piece or in pieces."""
        if self.recompute and bilevel.steps > 1:
            return _recomputed(bilevel)
        graph = bilevel.with_graph()
        solution = graph.solve()
        with stage("query loss and its way back"):
            losses = graph.query_loss(solution.params)
            found = torch.autograd.grad(losses.sum(), list(graph.theta.values()), materialize_grads=True)
        gradient = dict(zip(graph.theta, found, strict=True))
        return TaskGradients.of(graph, gradient, losses, solution.params, solution.stats)

    def jacobian(self, bilevel: Bilevel, phi: Params) -> Jacobian:
        """Through the steps; they are taken anew, once, and their graph is held. J v is the transpose of v -> J' v."""
        graph = bilevel.with_graph()
        solution, leaves = graph.solve(), dict(graph.theta)
        after = {name: solution.params.get(name, leaf) for name, leaf in leaves.items()}  # what is not adapted stays
        ends = list(after.values())
        probe = [torch.zeros_like(leaf, requires_grad=True) for leaf in ends]
        pulled = torch.autograd.grad(ends, list(leaves.values()), probe, create_graph=True, materialize_grads=True)

        def pull(vectors: Tensor) -> Tensor:
            cotangents = list(unravel(vectors, after).values())
            products = torch.autograd.grad(
                ends, list(leaves.values()), cotangents, retain_graph=True, materialize_grads=True
            )
            return ravel(dict(zip(leaves, products, strict=True)))

        def push(vectors: Tensor) -> Tensor:
            tangents = list(unravel(vectors, leaves).values())
            products = torch.autograd.grad(pulled, probe, tangents, retain_graph=True, materialize_grads=True)
            return ravel(dict(zip(leaves, products, strict=True)))

        return Jacobian(push, pull)


def _recomputed(bilevel: Bilevel) -> TaskGradients:
    """The same gradient, the steps taken twice: once without graph, and again in pieces from the last to the first."""
    solver, steps = bilevel.solver, bilevel.steps
    length = math.ceil(math.sqrt(steps))
    kept: list[Params] = []
    state = None
    for number, state in enumerate(trajectory(solver, bilevel.inner, steps)):
        if number % length == 0 and number < steps:
            kept.append(detached(state.params))
    assert state is not None
    solution = solver.solution(bilevel.solved(state.params), state, steps)

    graph = bilevel.with_graph()
    theta, inner = graph.theta, graph.inner
    # theta's ways into the steps: its leaves, and a learned lambda as it is used, whose own derivative comes once, at the end.
    weights = inner.regulariser.learned_weights
    learned = list(theta.regulariser.values()) if weights else []
    rho = {name: leaf for name, leaf in theta.items() if any(leaf is other for other in learned)}
    direct = {name: leaf for name, leaf in theta.items() if name not in rho}
    entering = [*direct.values(), *weights]
    losses: Tensor | None = None
    arriving: list[Tensor] = []  # the gradient in the piece's last phi, and, so far, in theta
    for piece in reversed(range(len(kept))):
        first = piece * length
        phi = inner.start if piece == 0 else detached(kept[piece], requires_grad=True)
        if losses is None:
            end = solve(solver, inner, steps, phi=phi, first=first)
            losses = graph.query_loss(end.params)
            outputs, arriving = [losses], [torch.ones_like(losses)]
        else:
            (after,) = deque(trajectory(solver, inner, first + length, phi=phi, first=first), maxlen=1)
            # What has arrived in theta goes in with the rest, so that all is added up in the order of one pass.
            outputs = [*after.params.values(), *entering]
        inputs = entering if piece == 0 else [*phi.values(), *entering]
        arriving = list(torch.autograd.grad(outputs, inputs, arriving, materialize_grads=True))
    assert losses is not None
    found = dict(zip(direct, arriving[: len(direct)], strict=True))
    if rho:
        through = torch.autograd.grad(weights, list(rho.values()), arriving[len(direct) :])
        found |= dict(zip(rho, through, strict=True))
    return TaskGradients.of(bilevel, found, losses, solution.params, solution.stats)
