"""Which parts make no sense together, each in one sentence with the keys to change."""

from collections.abc import Sequence

from metarun.algorithm.protocols import (
    Direction,
    EqualSteps,
    HasJacobian,
    InnerSolver,
    LearnsParameters,
    MetaGradient,
)
from metarun.algorithm.proximal import ProximalTerm
from metarun.problems.base import Problem


def need_differentiable(estimator: str, solver: InnerSolver) -> None:
    """Raise `ValueError` unless phi carries a graph where theta does."""
    if not solver.is_differentiable:
        raise ValueError(
            f"the {estimator} meta-gradient needs an inner solver that can be differentiated, and {type(solver).__name__} "
            "cannot be. Choose algorithm/meta_gradient=implicit or algorithm/inner=gradient_descent."
        )


def need_descent(estimator: str, solver: InnerSolver) -> None:
    """Raise `ValueError` unless phi descends the inner objective from theta."""
    if not solver.descends:
        raise ValueError(
            f"the {estimator} meta-gradient needs an inner solver that descends from theta towards a minimum, and "
            f"{type(solver).__name__} does not. Choose algorithm/inner=gradient_descent or algorithm/meta_gradient=unrolled."
        )


def need_equal_steps(estimator: str, solver: InnerSolver) -> float:
    """The step size of a solver whose steps are all phi <- phi - alpha * gradient; `ValueError` for others."""
    step_size = solver.fixed_step_size if isinstance(solver, EqualSteps) else None
    if step_size is None:
        raise ValueError(
            f"the {estimator} meta-gradient needs gradient steps of one fixed size, and {type(solver).__name__} does not take "
            "such. Choose algorithm/inner=gradient_descent or algorithm/meta_gradient=unrolled."
        )
    return step_size


def need_curvature(what: str, key: str, curvature: str, problem: Problem) -> None:
    """Raise `ValueError` for a Gauss-Newton matrix of a loss that has none."""
    if curvature == "gauss_newton" and not problem.loss_has_curvature:
        raise ValueError(
            f"{what} takes the Gauss-Newton matrix for the support loss's Hessian, and the loss of this problem is no likelihood: "
            f"the matrix says nothing of its curvature. Set {key}=hessian (negative curvature is damped by default)."
        )


def refuse_impossible(
    inner: InnerSolver,
    meta_gradient: MetaGradient,
    direction: Direction,
    term: ProximalTerm,
    adapted: str | Sequence[str],
    not_meta_learned: Sequence[str],
) -> None:
    """Raise `ValueError` for a composition without meaning.

    Every rule speaks of what the parts declare about themselves, so a new part needs no new rule.
    """
    solver, estimator = type(inner).__name__, type(meta_gradient).__name__
    meta_gradient.check(inner, term)
    if isinstance(inner, LearnsParameters) and not meta_gradient.learns_solver:
        raise ValueError(
            f"{solver} has meta-parameters of its own, and the {estimator} meta-gradient gives no gradient for them. "
            "Choose algorithm/meta_gradient=unrolled or algorithm/inner=gradient_descent."
        )
    if term.is_learned and not meta_gradient.learns_regulariser:
        raise ValueError(
            f"learn_proximal_weight={term.learned} needs a gradient of lambda, and {estimator} gives none. "
            "Choose algorithm/meta_gradient=implicit or unrolled, or algorithm.learn_proximal_weight=never."
        )
    if not inner.descends and (term.is_there or adapted != "all"):
        raise ValueError(
            f"{solver} does not descend the inner objective: a proximal term or a choice of adapted parameters has no effect "
            "on it. Set algorithm.proximal_weight=0 and algorithm.adapted=all."
        )
    if not direction.transforms_gradient:
        return
    if not meta_gradient.is_gradient:
        raise ValueError(
            f"{type(direction).__name__} transforms a gradient, and {estimator} does not give one. "
            "Choose algorithm/direction=plain with optimizer=adam or sgd."
        )
    if direction.needs_jacobian:
        _need_jacobian(direction, meta_gradient, adapted, not_meta_learned)
    if isinstance(inner, LearnsParameters) or term.is_learned:
        raise ValueError(
            f"{type(direction).__name__} measures steps of the model's parameters, and step sizes or lambda are learned here "
            "too. Choose algorithm/direction=plain with optimizer=adam or sgd, or parts that learn neither (algorithm=maml)."
        )


def _need_jacobian(
    direction: Direction, meta_gradient: MetaGradient, adapted: str | Sequence[str], not_meta_learned: Sequence[str]
) -> None:
    name, estimator = type(direction).__name__, type(meta_gradient).__name__
    plain = "Choose algorithm/direction=plain with optimizer=adam or sgd"
    if direction.without_jacobian:
        plain = f"Set {direction.without_jacobian}, or choose {plain.removeprefix('Choose ')}"
    if not isinstance(meta_gradient, HasJacobian):
        raise ValueError(
            f"{name} needs d phi / d theta, and {estimator} does not give it. {plain}, or algorithm/meta_gradient=unrolled, "
            "implicit or first_order."
        )
    if not meta_gradient.jacobian_is_linear:
        raise ValueError(
            f"{name} needs d phi / d theta as a linear map, and {estimator} would iterate on differences of gradients, which are "
            f"none. {plain}, or algorithm/meta_gradient/solver=cg, or set algorithm.meta_gradient.curvature=hessian."
        )
    if not_meta_learned:
        raise ValueError(
            f"{name} needs d phi / d theta of all parameters, and those that algorithm.not_meta_learned names are no part of "
            f"theta. {plain}, or leave algorithm.not_meta_learned empty."
        )
    if adapted != "all" and not meta_gradient.jacobian_has_fixed:
        raise ValueError(
            f"{name} needs d phi / d theta of all parameters, and {estimator} gives it of those that are adapted. {plain}, or "
            "algorithm/meta_gradient=unrolled or first_order, or set algorithm.adapted=all."
        )
