"""Regression on sinusoids: each task is one amplitude and one phase."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import rng
from metarun.tasks.curves import check_interval, check_points, scaled
from metarun.tasks.types import Examples, Split, TaskBatch


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """Noise-free samples of `y = amplitude * sin(x - phase)`, with amplitude, phase and x uniform.

    The splits are one distribution under different keys. Support and query points are separate sequences: changing the
    number of one does not move the other, and more points continue the same sequence.

    Attributes:
        amplitude: (low, high), low > 0.
        phase: (low, high) in radians.
        inputs: (low, high) of x.
    Source: Finn et al. 2017, section 5.1, as in cbfinn/maml: amplitude (0.1, 5), phase (0, pi), inputs (-5, 5).
    """

    amplitude: tuple[float, float]
    phase: tuple[float, float]
    inputs: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "inputs"):
            check_interval(name, getattr(self, name))
        if self.amplitude[0] <= 0:
            raise ValueError(f"amplitude must be > 0, got low = {self.amplitude[0]}. Set dataset.source.amplitude.")

    def to(self, device: torch.device | str) -> "Sinusoid":
        """Itself: tasks are drawn on the device of their indices."""
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One number."""
        return (1,)

    @property
    def output_size(self) -> int:
        """One number."""
        return 1

    def check(self, split: Split, shots: int, queries: int) -> None:
        """Raise `ValueError` unless both sets have a point; any number can be drawn."""
        check_points(shots, queries)

    def sample(self, seed: int, split: Split, indices: Tensor, shots: int, queries: int) -> TaskBatch:
        """Tasks `indices` of `split`, on the device of `indices`.

        Args:
            seed: any integer; with the split it names the sequence of tasks.
            split: which sequence.
            indices: int64 [B], which tasks of it.
            shots: support points, K.
            queries: query points, Q.
        Returns:
            Inputs and targets float64, [B, K, 1] and [B, Q, 1]. Latent: `amplitude` [B] and `phase` [B].
        """
        # One draw, as each costs 0.07 ms: row 0 is the curve; below it, column 0 is support, column 1 query.
        unit = rng.uniform(rng.key(seed, "sinusoid", split), indices, 1 + max(shots, queries), 2)
        latent = {"amplitude": scaled(unit[:, 0, 0], self.amplitude), "phase": scaled(unit[:, 0, 1], self.phase)}
        support = scaled(unit[:, 1 : 1 + shots, :1], self.inputs)
        query = scaled(unit[:, 1 : 1 + queries, 1:], self.inputs)
        return TaskBatch(
            Examples(support, true_function(latent, support)), Examples(query, true_function(latent, query)), latent
        )


def true_function(latent: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The curve that the tasks sample: `amplitude * sin(x - phase)` at `inputs` [B, S, 1], returned as [B, S, 1]."""
    amplitude, phase = latent["amplitude"][:, None, None], latent["phase"][:, None, None]
    return amplitude * torch.sin(inputs - phase)
