"""How training fails, in words: what must hold, what was met, which keys to change."""

import torch
from torch import Tensor

from metarun.algorithm.meta_parameters import MetaParameters
from metarun.errors import TrainingError
from metarun.tasks.types import TaskBatch

STANDS = "The last checkpoint stands."


def not_finite(step: int, losses: Tensor, stats: dict[str, Tensor], tasks: TaskBatch, saved: str) -> TrainingError:
    """What went wrong, with the first task named whose loss is not finite, or a statistic NaN (a system not solved).

    Args:
        saved: which state there is to go back to, a sentence.
    """
    unknown = [torch.isnan(value) for value in stats.values() if value.dim()]
    bad = torch.stack([~torch.isfinite(losses), *unknown]).any(0).nonzero().flatten().tolist()
    words = [f"after step {step} the query loss or the meta-gradient is not finite"]
    if bad:
        latent = {name: value[bad[0]].tolist() for name, value in tasks.latent.items() if _tells(value[bad[0]])}
        numbers = {name: float(value[bad[0]]) for name, value in stats.items() if value.dim()}
        words.append(f"{len(bad)} of {len(losses)} tasks, the first: {latent} {numbers}")
    words.append(
        "likely causes: inner steps too large (algorithm.inner.step_size), outer steps too large (optimizer.lr), "
        "or an ill-conditioned implicit system (algorithm.proximal_weight, algorithm.meta_gradient.damping)"
    )
    return TrainingError("; ".join(words) + f". {saved}")


def _tells(latent: Tensor) -> bool:
    """Whether a person can read it: a few numbers, and no keys of random ones, which are any of 64 bits."""
    return latent.numel() <= 20 and bool((latent.double().abs() < 2**53).all())


def require_finite(theta: MetaParameters, step: int) -> None:
    """Refuse parameters that are not finite before they are validated or saved: one wait for the device.

    Raises:
        TrainingError: some are not.
    """
    is_finite = torch.stack([torch.isfinite(leaf).all() for leaf in theta.values()]).tolist()
    bad = [name for name, good in zip(theta, is_finite, strict=True) if not good]
    if bad:
        raise TrainingError(
            f"after step {step} the parameters are not finite ({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}): "
            f"outer steps are too large (optimizer.lr). {STANDS}"
        )


def out_of_memory(task_chunk: int) -> TrainingError:
    """Too little memory for so many tasks at once, and what to do."""
    fewer = f"device.task_chunk={task_chunk // 2} (the same result but for rounding), " if task_chunk > 1 else ""
    return TrainingError(
        f"the device's memory is too small for {task_chunk} task(s) at once. Give one of: {fewer}algorithm=imaml (memory does not "
        f"grow with inner steps), algorithm/meta_gradient=first_order, or fewer algorithm.inner.steps. {STANDS}"
    )
