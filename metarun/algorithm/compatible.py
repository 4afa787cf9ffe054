"""Which parts make no sense together, each in one sentence with the keys to change."""

from collections.abc import Sequence

from metarun.algorithm.parts import Direction, InnerSolver, MetaGradient
from metarun.algorithm.proximal import ProximalWeight

_OF_SOLVERS = {
    "graph": "an inner solver that can be differentiated, and {solver} cannot be. "
    "Choose algorithm/meta_gradient=implicit or algorithm/inner=gradient_descent.",
    "iterates": "every iterate of an inner solver's equal steps, and {solver} has none to give. "
    "Choose algorithm/inner=gradient_descent or algorithm/meta_gradient=unrolled.",
    "fixed rates": "gradient steps of one fixed size, and {solver} does not take such. "
    "Choose algorithm/inner=gradient_descent or algorithm/meta_gradient=unrolled.",
    "minimum": "an inner solver that descends from theta towards a minimum, and {solver} does not. "
    "Choose algorithm/inner=gradient_descent or algorithm/meta_gradient=unrolled.",
}


def refuse_impossible(
    inner: InnerSolver,
    meta_gradient: MetaGradient,
    direction: Direction,
    proximal: ProximalWeight,
    adapted: str | Sequence[str],
) -> None:
    """Raise `ValueError` for a composition without meaning.

    Every rule speaks of what the parts declare about themselves, so a new part needs no new rule.
    """
    solver, estimator = type(inner).__name__, type(meta_gradient).__name__
    if "proximal term" in meta_gradient.needs and not proximal.is_there:
        raise ValueError(
            "proximal_weight must be > 0 for the implicit meta-gradient, got 0. "
            "Set algorithm.proximal_weight (iMAML's paper uses 2.0) or choose algorithm/meta_gradient=first_order."
        )
    for need, words in _OF_SOLVERS.items():
        if need in meta_gradient.needs - inner.offers:
            raise ValueError(f"the {estimator} meta-gradient needs {words.format(solver=solver)}")
    if inner.learns and "inner" not in meta_gradient.gives:
        raise ValueError(
            f"{solver} has step sizes to be learned, and the {estimator} meta-gradient gives no gradient for them. "
            "Choose algorithm/meta_gradient=unrolled or algorithm/inner=gradient_descent."
        )
    if proximal.learned != "never" and "proximal_weight" not in meta_gradient.gives:
        raise ValueError(
            f"learn_proximal_weight={proximal.learned} needs a gradient of lambda, and {estimator} gives none. "
            "Choose algorithm/meta_gradient=implicit or unrolled, or algorithm.learn_proximal_weight=never."
        )
    if "minimum" not in inner.offers and (proximal.is_there or adapted != "all"):
        raise ValueError(
            f"{solver} does not descend the inner objective: a proximal term or a choice of adapted parameters has no effect "
            "on it. Set algorithm.proximal_weight=0 and algorithm.adapted=all."
        )
    missing = direction.needs - meta_gradient.gives
    if "gradient" in missing:
        raise ValueError(
            f"{type(direction).__name__} transforms a gradient, and {estimator} does not give one. "
            "Choose algorithm/direction=plain."
        )
    if "jacobian" in missing or ("jacobian" in direction.needs and adapted != "all"):
        raise ValueError(
            "point=pullback needs d phi / d theta of all parameters. Choose algorithm/meta_gradient=implicit, unrolled or "
            "first_order with algorithm.adapted=all, or algorithm.direction.point=phi."
        )
    if direction.needs and (inner.learns or proximal.learned != "never"):
        raise ValueError(
            f"{type(direction).__name__} measures steps of the model's parameters, and step sizes or lambda are learned here "
            "too. Choose algorithm/direction=plain, or parts that learn neither."
        )
