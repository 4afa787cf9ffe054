"""The natural-gradient outer step, by a dense matrix.

    s = (F + damping I)^-1 g;   step = rate * s, shortened until  step' F step / 2 <= max_divergence

F is the mean over the tasks of Fisher matrices on the query inputs: at phi; at theta; P' F(phi) P with P = d phi / d theta (the
Fisher matrix of the adapted predictor in theta); or, no Fisher matrix, the mean of g g' over the tasks' meta-gradients.
Source: Amari 1998; Martens 2020; Schulman et al. 2015, appendix C, for the trust region.
"""

import torch


def natural_step(gradient, fisher, *, damping, step_size):
    """The whole step, a vector, and the divergence that F predicts."""
    step = step_size * torch.linalg.solve(fisher + damping * torch.eye(len(gradient)).to(gradient), gradient)
    return step, step @ fisher @ step / 2


def within(step, predicted, really, *, max_divergence, tries):
    """The first length from the predicted one down at which the models diverge no further; with no tries the predicted one.

    A length that went too far is followed by 0.9 of that at which a quadratic through it would be the bound, but by no less than a
    tenth; where all of them went too far there is no step. really(step) is the divergence of a step that has been taken.
    """
    step = step * min(1.0, (max_divergence / predicted) ** 0.5)
    for _ in range(tries):
        divergence = really(step)
        if divergence <= max_divergence * (1 + 1e-7):
            return step
        step = step * min(max(0.9 * (max_divergence / divergence) ** 0.5, 0.1), 0.9)
    return torch.zeros_like(step) if tries else step


def pulled_back(fishers, jacobians):
    """Mean of P' F P."""
    return torch.stack([p.T @ f @ p for f, p in zip(fishers, jacobians, strict=True)]).mean(0)


def of_tasks(gradients):
    """Mean of g g'."""
    return torch.stack([g[:, None] * g[None, :] for g in gradients]).mean(0)


def longest_step(gradient, fisher, *, damping, max_divergence):
    """Along (F + damping I)^-1 g, as long as step' F step / 2 = max_divergence allows."""
    step = torch.linalg.solve(fisher + damping * torch.eye(len(gradient)).to(gradient), gradient)
    return step * (2 * max_divergence / (step @ fisher @ step)) ** 0.5


def accepted(longest, consequences, *, max_divergence, shrink, tries):
    """The first of longest, shrink * longest, ... by which the loss falls and the models diverge no further; else zeros.

    consequences(step) is (change of the loss, divergence) of a step that has been taken.
    """
    for number in range(tries):
        step = shrink**number * longest
        change, divergence = consequences(step)
        if change < 0 and divergence <= max_divergence * (1 + 1e-7):
            return step
    return torch.zeros_like(longest)
