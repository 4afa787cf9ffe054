"""lambda of the proximal term: one number, one for each layer or parameter, fixed or learned."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from metarun import checks
from metarun.algorithm.inner_problem import Weight
from metarun.maths.trees import Params, against, rows

LEARNED = ("never", "scalar", "layer", "parameter")
_ALL = "all"


@dataclass(frozen=True)
class ProximalWeight:
    """lambda >= 0, and how it is learned.

    A learned lambda is exp(rho), with rho a meta-parameter beside theta's: one number, one for each leaf ("layer"), or one for
    each parameter. It starts from `value`.

    Attributes:
        value: one number, or numbers by patterns of parameter names, such as {"head.*": 0.5, "*": 2.0}; the first match counts.
        learned: "never", "scalar", "layer" or "parameter".
    Source: Rajeswaran et al. 2019, section 3, names both as extensions; the gradient is the implicit function theorem's.
    """

    value: float | Mapping[str, float]
    learned: Literal["never", "scalar", "layer", "parameter"] = "never"

    def __post_init__(self) -> None:
        checks.one_of("learn_proximal_weight", self.learned, LEARNED)
        values = list(self.value.values()) if isinstance(self.value, Mapping) else [self.value]
        for value in values:
            checks.number("proximal_weight", value, minimum=0)
        if isinstance(self.value, Mapping) and (not values or min(values) <= 0):
            raise ValueError(f"proximal_weight by layers must be > 0 everywhere, got {dict(self.value)}")
        if self.learned != "never" and min(values) <= 0:
            raise ValueError(
                f"proximal_weight must be > 0 to be learned, got {self.value!r}. Set algorithm.proximal_weight."
            )
        if self.learned == "scalar" and isinstance(self.value, Mapping):
            raise ValueError(
                f"learn_proximal_weight=scalar needs one number in proximal_weight, got {dict(self.value)}. "
                "Set algorithm.proximal_weight to a number, or algorithm.learn_proximal_weight to layer or parameter."
            )

    @property
    def is_there(self) -> bool:
        """Whether there is a proximal term."""
        return isinstance(self.value, Mapping) or self.value > 0

    def meta_parameters(self, adapted: Params) -> Params:
        """rho by name, for theta's adapted leaves (no task axis); nothing unless it is learned."""
        if self.learned == "never":
            return {}
        if self.learned == "scalar":
            leaf = next(iter(adapted.values()))
            return {_ALL: leaf.new_tensor(self.value).log()}
        size = {"layer": lambda leaf: (), "parameter": lambda leaf: tuple(leaf.shape)}[self.learned]
        return {name: leaf.new_full(size(leaf), self._of(name)).log() for name, leaf in adapted.items()}

    def weight(self, learned: Params, adapted: Params) -> Weight:
        """lambda for B tasks.

        Args:
            learned: rho, leaves [B, ...].
            adapted: theta's adapted leaves [B, ...].
        Returns:
            One number, or leaves that broadcast against `adapted`.
        """
        if self.learned == "scalar":
            return against({name: learned[_ALL].exp() for name in adapted}, adapted)
        if self.learned != "never":
            return against({name: rho.exp() for name, rho in learned.items()}, adapted)
        if isinstance(self.value, Mapping):
            return {name: leaf.new_full((1,) * leaf.dim(), self._of(name)) for name, leaf in adapted.items()}
        return self.value

    def gradient(self, learned: Params, by_parameter: Params) -> Params:
        """d query loss / d rho from d query loss / d lambda of each parameter, leaves [B, ...]: d lambda / d rho = lambda."""
        if self.learned == "never":
            return {}
        if self.learned == "scalar":
            total = sum(rows(leaf).sum(1) for leaf in by_parameter.values())
            return {_ALL: learned[_ALL].exp() * total}
        if self.learned == "layer":
            by_parameter = {name: rows(leaf).sum(1) for name, leaf in by_parameter.items()}
        return {name: rho.exp() * by_parameter[name] for name, rho in learned.items()}

    def check(self, names: list[str]) -> None:
        """Raise `ValueError` unless every adapted parameter has its lambda."""
        for name in names:
            self._of(name)

    def _of(self, name: str) -> float:
        if not isinstance(self.value, Mapping):
            return self.value
        for pattern, value in self.value.items():
            if fnmatchcase(name, pattern):
                return value
        raise ValueError(
            f"proximal_weight must cover every adapted parameter, and no pattern of {list(self.value)} fits {name}. "
            'Add "*": VALUE to algorithm.proximal_weight.'
        )
