"""A Fisher matrix by Kronecker factors (K-FAC, EKFAC), example by example, for layers y = W a.

    A = mean of a a',  G = mean of J' M J   over all examples of all tasks,  J = d outputs / d y,  M the metric of the outputs

    K-FAC:   (G + sqrt(damping) / pi)^-1 W (A + pi sqrt(damping))^-1,  pi^2 = (tr A / dim A) / (tr G / dim G)
    EKFAC:   U_G [ (U_G' W U_A) / (s + damping) ] U_A',  s_ij = mean of (U_G' J' M J U_G)_ii (U_A' a)_j^2,  U eigenvectors of A, G

Source: Martens and Grosse 2015, sections 3 and 6.3; George et al. 2018, algorithm 1.
"""

import torch


def solved(matrix, examples, *, damping, corrected):
    """S and F S for a gradient in W [out, in].

    Args:
        examples: (a, J, M) of each.
    """
    count = len(examples)
    inputs = sum(torch.outer(a, a) for a, _, _ in examples) / count
    outputs = sum(j.T @ m @ j for _, j, m in examples) / count
    if not corrected:
        pi = (inputs.trace() / len(inputs) / (outputs.trace() / len(outputs))) ** 0.5
        left = torch.linalg.inv(outputs + damping**0.5 / pi * torch.eye(len(outputs)))
        right = torch.linalg.inv(inputs + pi * damping**0.5 * torch.eye(len(inputs)))
        solution = left @ matrix @ right
        return solution, outputs @ solution @ inputs
    u, v = torch.linalg.eigh(outputs)[1], torch.linalg.eigh(inputs)[1]
    values = sum(torch.outer((u.T @ j.T @ m @ j @ u).diagonal(), (v.T @ a) ** 2) for a, j, m in examples) / count
    turned = (u.T @ matrix @ v) / (values + damping)
    return u @ turned @ v.T, u @ (values * turned) @ v.T


def metric_of_softmax(logits):
    """M of one example: the Hessian of the cross-entropy in its logits."""
    p = logits.softmax(-1)
    return torch.diag(p) - torch.outer(p, p)


def metric_of_gaussian(means):
    """M of one example: the Hessian of the mean squared error in its outputs."""
    return 2 / len(means) * torch.eye(len(means))
