"""theta: all meta-parameters of a run, sorted by what becomes of each leaf."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from torch import Tensor

from metarun.maths.trees import Params

_SOLVER, _REGULARISER = "inner/", "proximal_weight/"
BESIDE_THE_MODEL = (_SOLVER, _REGULARISER)
"""How the names begin of what an algorithm meta-learns beside the model."""


@dataclass(frozen=True, eq=False)
class MetaParameters(Mapping[str, Tensor]):
    """theta, sorted once when a run is built; leaves without task axis, or [B, ...] for B tasks (`expand`).

    As a mapping it is what the optimizer moves and a checkpoint holds: the meta-learned leaves by unique names, in a fixed order.

    Attributes:
        names: of the meta-learned leaves: the model's in its own order, then `inner/...`, then `proximal_weight/...`.
        adapted: the model's leaves from which the inner loop starts.
        fixed: the model's leaves that are meta-learned alone: the same for every task.
        solver: the inner solver's own (learned step sizes, a ridge head's regulariser).
        regulariser: the inner objective's own (the logarithm of lambda).
        context: adapted from the values that the model was made with; not meta-learned (CAVIA).
        frozen: the model's leaves that are neither.
    """

    names: tuple[str, ...]
    adapted: Params
    fixed: Params
    solver: Params = field(default_factory=dict)
    regulariser: Params = field(default_factory=dict)
    context: Params = field(default_factory=dict)
    frozen: Params = field(default_factory=dict)

    @staticmethod
    def of_model(
        model: Params, *, adapted: list[str], unlearned: list[str], solver: Params, regulariser: Params
    ) -> "MetaParameters":
        """From a model's parameters.

        Args:
            adapted: names of the leaves that the inner loop adapts.
            unlearned: names of the leaves that the outer loop leaves as they are.
            solver, regulariser: their own leaves.
        Raises:
            ValueError: nothing is meta-learned, or the model has a name that is ours.
        """
        taken = sorted(name for name in model if name.startswith((_SOLVER, _REGULARISER)))
        if taken:
            raise ValueError(f"the model's parameter {taken[0]} has a name that the algorithm uses itself; rename it")
        learned = [name for name in model if name not in unlearned]
        own = (*(_SOLVER + name for name in solver), *(_REGULARISER + name for name in regulariser))
        if not learned and not own:
            raise ValueError("nothing is left to be meta-learned: not_meta_learned names every parameter of the model")

        def chosen(is_adapted: bool, is_learned: bool) -> Params:
            return {
                name: leaf
                for name, leaf in model.items()
                if (name in adapted) == is_adapted and (name not in unlearned) == is_learned
            }

        return MetaParameters(
            names=(*learned, *own),
            adapted=chosen(True, True),
            fixed=chosen(False, True),
            solver=solver,
            regulariser=regulariser,
            context=chosen(True, False),
            frozen=chosen(False, False),
        )

    def __getitem__(self, name: str) -> Tensor:
        return self._learned[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def start(self) -> Params:
        """Where the inner loop starts: adapted leaves, those of a context among them."""
        return self.adapted | self.context if self.context else self.adapted

    @property
    def shared(self) -> Params:
        """The model's leaves that are not adapted."""
        return self.fixed | self.frozen if self.frozen else self.fixed

    def expand(self, num_tasks: int) -> "MetaParameters":
        """Each leaf repeated for `num_tasks` tasks, as a view: [...] -> [B, ...]."""
        return self.map(lambda leaf: leaf.expand(num_tasks, *leaf.shape))

    def detached(self, *, requires_grad: bool = False) -> "MetaParameters":
        """The same values cut from their graph; the meta-learned ones as fresh leaves of a graph when `requires_grad`."""
        cut = self.map(Tensor.detach)
        if requires_grad:
            for leaf in cut.values():
                leaf.requires_grad_()
        return cut

    def map(self, function: Callable[[Tensor], Tensor]) -> "MetaParameters":
        """`function` of every leaf, learned or not."""
        groups = {group: {name: function(leaf) for name, leaf in getattr(self, group).items()} for group in _GROUPS}
        return replace(self, **groups)

    def updated(self, leaves: Mapping[str, Tensor]) -> "MetaParameters":
        """With other values under some of the names, those of `unlearned` leaves among them."""

        def of(group: Params, prefix: str = "") -> Params:
            return {name: leaves.get(prefix + name, leaf) for name, leaf in group.items()}

        return replace(
            self,
            adapted=of(self.adapted),
            fixed=of(self.fixed),
            solver=of(self.solver, _SOLVER),
            regulariser=of(self.regulariser, _REGULARISER),
            context=of(self.context),
            frozen=of(self.frozen),
        )

    @property
    def unlearned(self) -> Params:
        """The model's leaves that are not meta-learned."""
        return self.context | self.frozen

    @cached_property
    def _learned(self) -> Params:
        every = self.adapted | self.fixed
        every |= {_SOLVER + name: leaf for name, leaf in self.solver.items()}
        every |= {_REGULARISER + name: leaf for name, leaf in self.regulariser.items()}
        return {name: every[name] for name in self.names}


_GROUPS = tuple(each.name for each in fields(MetaParameters) if each.name != "names")
