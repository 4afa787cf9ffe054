"""The implicit meta-gradient of one task in every meta-parameter, by dense matrices.

At a stationary point of  loss(phi, w) + 1/2 sum_j lambda_j (phi_j - theta_j)^2, with C = d2 loss / d phi2 and L = diag(lambda),

    d phi / d theta = (C + L)^-1 L,   d phi / d w = -(C + L)^-1 d2 loss / d phi d w,
    d phi / d lambda_j = -(C + L)^-1 e_j (phi_j - theta_j)

so that with g = L (C + L)^-1 v and z = L^-1 g, v the query gradient at phi, the meta-gradients are

    theta: g      w: direct - (d2 loss / d w d phi) z      lambda_j: -z_j (phi_j - theta_j)

iMAML's released code has `identity` I in place of I and lambda + `offset` in place of lambda in the system  (I + C / lambda) g = v.
Source: Rajeswaran, Finn, Kakade, Levine 2019, lemma 1, and `learner_model.py` of the released code.
"""

import torch

from tests.reference.curvature import rows


def inverse(matrix, richardson=None):
    """The inverse, or with (steps, step size) what so many steps x <- x - step (A x - b) from x = b make of it."""
    unit = torch.eye(len(matrix)).to(matrix)
    if richardson is None:
        return torch.linalg.solve(matrix, unit)
    x = unit
    for _ in range(richardson[0]):
        x = x - richardson[1] * (matrix @ x - unit)
    return x


def jacobian(curvature, weight, *, damping=0.0, identity=1.0, offset=0.0, richardson=None):
    """d phi / d theta = L^-1/2 (I + L^-1/2 C L^-1/2)^-1 L^1/2, a matrix; `weight` is lambda as a vector."""
    unit = torch.eye(len(weight)).to(weight)
    root = (weight + offset).sqrt()
    system = identity * unit + torch.diag(1 / root) @ (curvature + damping * unit) @ torch.diag(1 / root)
    return torch.diag(1 / root) @ inverse(system, richardson) @ torch.diag(root)


def through_phi(loss, query_loss, phi, theta, frozen, weight, jacobian):
    """Meta-gradients (theta, w, lambda) as vectors.

    Args:
        loss: (phi, w) -> support loss, of vectors.
        query_loss: (phi, w) -> query loss.
        weight: lambda as a vector.
        jacobian: d phi / d theta.
    """
    phi, frozen = phi.detach().requires_grad_(), frozen.detach().requires_grad_()
    slope, direct = torch.autograd.grad(query_loss(phi, frozen), (phi, frozen), materialize_grads=True)
    g = jacobian.T @ slope
    z = g / weight
    if len(frozen):
        inner = torch.autograd.grad(loss(phi, frozen), phi, create_graph=True)[0]
        direct = direct - rows(inner, frozen).T @ z
    return g, direct, -z * (phi - theta).detach()
