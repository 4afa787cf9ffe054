"""The proximal term of the inner objective, lambda/2 ||phi - theta||^2: one lambda, one for each layer or parameter, learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from metarun import checks
from metarun.algorithm.meta_parameters import MetaParameters
from metarun.maths.trees import Params, against, axpy, ravel_like, rows

LEARNED = ("never", "scalar", "layer", "parameter")
_ALL = "all"

Weight = float | Params
"""lambda: one number, or leaves that broadcast against those of phi, [B, ...] or [B, 1, ...]."""


@dataclass(frozen=True)
class ProximalTerm:
    """lambda >= 0, and how it is learned.

    A learned lambda is exp(rho), with rho a meta-parameter beside theta's: one number, one for each leaf ("layer"), or one for
    each parameter. It starts from `weight`.

    Attributes:
        weight: one number, or numbers by patterns of parameter names, such as {"head.*": 0.5, "*": 2.0}; the first match counts.
        learned: "never", "scalar", "layer" or "parameter".
    Source: Rajeswaran et al. 2019, section 3, names both as extensions; the gradient is the implicit function theorem's.
    """

    weight: float | Mapping[str, float]
    learned: Literal["never", "scalar", "layer", "parameter"] = "never"

    def __post_init__(self) -> None:
        checks.one_of("learn_proximal_weight", self.learned, LEARNED)
        values = list(self.weight.values()) if isinstance(self.weight, Mapping) else [self.weight]
        for value in values:
            checks.number("proximal_weight", value, minimum=0)
        if isinstance(self.weight, Mapping) and (not values or min(values) <= 0):
            raise ValueError(f"proximal_weight by layers must be > 0 everywhere, got {dict(self.weight)}")
        if self.learned != "never" and min(values) <= 0:
            raise ValueError(
                f"proximal_weight must be > 0 to be learned, got {self.weight!r}. Set algorithm.proximal_weight."
            )
        if self.learned == "scalar" and isinstance(self.weight, Mapping):
            raise ValueError(
                f"learn_proximal_weight=scalar needs one number in proximal_weight, got {dict(self.weight)}. "
                "Set algorithm.proximal_weight to a number, or algorithm.learn_proximal_weight to layer or parameter."
            )

    @property
    def is_there(self) -> bool:
        """Whether lambda is not zero."""
        return isinstance(self.weight, Mapping) or self.weight > 0

    @property
    def is_learned(self) -> bool:
        """Whether lambda is a meta-parameter."""
        return self.learned != "never"

    def meta_parameters(self, start: Params) -> Params:
        """rho by name, for theta's adapted leaves (no task axis); nothing unless it is learned."""
        if self.learned == "never":
            return {}
        if self.learned == "scalar":
            leaf = next(iter(start.values()))
            return {_ALL: leaf.new_tensor(self.weight).log()}
        size = {"layer": lambda leaf: (), "parameter": lambda leaf: tuple(leaf.shape)}[self.learned]
        return {name: leaf.new_full(size(leaf), self._of(name)).log() for name, leaf in start.items()}

    def at(self, theta: MetaParameters) -> "Proximal":
        """The term of B tasks for theta, leaves [B, ...]; with a graph to rho and the anchor where they have one."""
        rho, start = theta.regulariser, theta.start
        if self.learned == "scalar":
            return Proximal(start, against({name: rho[_ALL].exp() for name in start}, start))
        if self.learned != "never":
            return Proximal(start, against({name: leaf.exp() for name, leaf in rho.items()}, start))
        if isinstance(self.weight, Mapping):
            each = {name: leaf.new_full((1,) * leaf.dim(), self._of(name)) for name, leaf in start.items()}
            return Proximal(start, each)
        return Proximal(start, self.weight)

    def check(self, names: list[str]) -> None:
        """Raise `ValueError` unless every adapted parameter has its lambda."""
        for name in names:
            self._of(name)

    def _of(self, name: str) -> float:
        if not isinstance(self.weight, Mapping):
            return self.weight
        for pattern, value in self.weight.items():
            if fnmatchcase(name, pattern):
                return value
        raise ValueError(
            f"proximal_weight must cover every adapted parameter, and no pattern of {list(self.weight)} fits {name}. "
            'Add "*": VALUE to algorithm.proximal_weight.'
        )


@dataclass(frozen=True)
class Proximal:
    """lambda/2 ||phi - anchor||^2 of B tasks: what an inner objective adds to the support loss.

    Another regulariser has the same four methods. They are written in operations that can be differentiated in `anchor` and
    `weight`, which is all that the implicit function theorem asks of it.

    Attributes:
        anchor: where the inner loop starts, leaves [B, ...].
        weight: lambda >= 0.
    """

    anchor: Params
    weight: Weight

    @property
    def is_there(self) -> bool:
        """Whether lambda is there at all."""
        return isinstance(self.weight, dict) or self.weight != 0

    @property
    def learned_weights(self) -> list[Tensor]:
        """What of lambda has a graph, as it enters the computation."""
        return [leaf for leaf in self.weight.values() if leaf.requires_grad] if isinstance(self.weight, dict) else []

    def value(self, phi: Params) -> Tensor:
        """The term, each parameter with its own lambda: [B]."""
        away = axpy(-1.0, self.anchor, phi)
        pulls = self._weighted(away)
        return 0.5 * torch.stack([rows(away[name] * pulls[name]).sum(1) for name in away]).sum(0)

    def gradient(self, phi: Params) -> Params:
        """In phi: lambda (phi - anchor), leaves [B, ...]."""
        return self._weighted(axpy(-1.0, self.anchor, phi))

    def added_to(self, gradient: Params, phi: Params) -> Params:
        """`gradient` of the loss, and the term's own at phi."""
        return axpy(self.weight, axpy(-1.0, self.anchor, phi), gradient) if self.is_there else gradient

    def hessian_diagonal(self, phi: Params) -> float | Tensor:
        """Its second derivatives, a diagonal matrix, against raveled parameters: one number, or [B, D]."""
        return ravel_like(self.weight, phi) if isinstance(self.weight, dict) else self.weight

    def _weighted(self, params: Params) -> Params:
        weight = self.weight
        if isinstance(weight, dict):
            return {name: weight[name] * leaf for name, leaf in params.items()}
        return {name: weight * leaf for name, leaf in params.items()}
