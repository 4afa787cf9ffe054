"""Regression on curves of two kinds: each task is a sinusoid or a straight line, and does not say which."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metarun import rng
from metarun.tasks import sinusoid
from metarun.tasks.curves import check_interval, check_points, scaled
from metarun.tasks.types import Examples, Split, TaskBatch


@dataclass(frozen=True, kw_only=True)
class SinusoidAndLine:
    """Noise-free samples of `amplitude * sin(x - phase)` or, for half of the tasks, of `intercept + slope * x`.

    The splits are one distribution under different keys; support and query points are separate sequences that only grow.

    Attributes:
        amplitude: (low, high), low > 0.
        phase: (low, high) in radians.
        slope, intercept: (low, high).
        inputs: (low, high) of x.
    Source: Finn, Xu and Levine 2018, as in torchmeta: amplitude (0.1, 5), phase (0, pi), slope and intercept (-3, 3), inputs
        (-5, 5); torchmeta makes exactly half of a fixed number of tasks lines, here each is one with probability 1/2.
    """

    amplitude: tuple[float, float]
    phase: tuple[float, float]
    slope: tuple[float, float]
    intercept: tuple[float, float]
    inputs: tuple[float, float]

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "slope", "intercept", "inputs"):
            check_interval(name, getattr(self, name))
        if self.amplitude[0] <= 0:
            raise ValueError(f"amplitude must be > 0, got low = {self.amplitude[0]}. Set dataset.source.amplitude.")

    def to(self, device: torch.device | str) -> "SinusoidAndLine":
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
            Inputs and targets float64, [B, K, 1] and [B, Q, 1]. Latent, each [B]: `is_line`, `amplitude`, `phase`, `slope`,
            `intercept`; those of the other kind have no influence.
        """
        # Rows 0 to 2 are the curve; below them, column 0 is support, column 1 query.
        unit = rng.uniform(rng.key(seed, "sinusoid_and_line", split), indices, 3 + max(shots, queries), 2)
        latent = {
            "is_line": unit[:, 2, 0] < 0.5,
            "amplitude": scaled(unit[:, 0, 0], self.amplitude),
            "phase": scaled(unit[:, 0, 1], self.phase),
            "slope": scaled(unit[:, 1, 0], self.slope),
            "intercept": scaled(unit[:, 1, 1], self.intercept),
        }
        support = scaled(unit[:, 3 : 3 + shots, :1], self.inputs)
        query = scaled(unit[:, 3 : 3 + queries, 1:], self.inputs)
        return TaskBatch(
            Examples(support, true_function(latent, support)), Examples(query, true_function(latent, query)), latent
        )


def true_function(latent: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The curves that the tasks sample, at `inputs` [B, S, 1], returned as [B, S, 1]."""
    line = latent["intercept"][:, None, None] + latent["slope"][:, None, None] * inputs
    return torch.where(latent["is_line"][:, None, None], line, sinusoid.true_function(latent, inputs))
