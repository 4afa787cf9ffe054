"""Regression on sums of two sines, the second of twice the frequency; each task has its own place on the axis."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import rng
from metarun.tasks.curves import check_interval, check_points, normal, scaled
from metarun.tasks.types import Examples, Split, TaskBatch


@dataclass(frozen=True, kw_only=True)
class Harmonic:
    """Noise-free samples of `y = a1 sin(w x + b1) + a2 sin(2 w x + b2)`, a1 and a2 standard normal, x normal about a centre.

    The splits are one distribution under different keys; support and query points are separate sequences that only grow.

    Attributes:
        centre: (low, high) of the mean of x, whose deviation is 1.
        frequency: (low, high) of w.
        phase: (low, high) of b1 and b2 in radians.
    Source: Lacoste et al. 2018, with torchmeta's ranges: centre (-4, 4), frequency (5, 7), phase (0, 2 pi).
    """

    centre: tuple[float, float]
    frequency: tuple[float, float]
    phase: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("centre", "frequency", "phase"):
            check_interval(name, getattr(self, name))

    def to(self, device: torch.device | str) -> "Harmonic":
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
        """Tasks `indices` (int64 [B]) of `split`, on their device.

        Returns:
            Inputs and targets float64, [B, K, 1] and [B, Q, 1]. Latent: `centre` and `frequency` [B], `amplitudes` and
            `phases` [B, 2].
        """
        # Rows 0 to 2 are the curve; below them, column 0 is support, column 1 query.
        unit = rng.uniform(rng.key(seed, "harmonic", split), indices, 3 + max(shots, queries), 2)
        latent = {
            "centre": scaled(unit[:, 0, 0], self.centre),
            "frequency": scaled(unit[:, 0, 1], self.frequency),
            "phases": scaled(unit[:, 1], self.phase),
            "amplitudes": normal(unit[:, 2]),
        }
        support, query = (
            latent["centre"][:, None, None] + normal(unit[:, 3 : 3 + number, column, None])
            for column, number in enumerate((shots, queries))
        )
        return TaskBatch(
            Examples(support, true_function(latent, support)), Examples(query, true_function(latent, query)), latent
        )


def true_function(latent: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The curves that the tasks sample, at `inputs` [B, S, 1], returned as [B, S, 1]."""
    (a1, a2), (b1, b2) = (latent[name].T[..., None, None] for name in ("amplitudes", "phases"))
    angle = latent["frequency"][:, None, None] * inputs
    return a1 * torch.sin(angle + b1) + a2 * torch.sin(2 * angle + b2)
