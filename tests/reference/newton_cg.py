"""The Hessian-free inner solver, written down naively for one task: Newton steps by truncated conjugate gradients.

    s = CG[C + lambda + damping, -gradient], from a fraction of the last s;  -gradient in its place if it does not descend
    phi <- phi + a s,  a = 1, 1/2, 1/4, ... the first with  G(phi + a s) <= G(phi) + 1e-4 a gradient's
    damping x 3/2 if (G(phi + s) - G(phi)) / (gradient's + s'(C + lambda)s / 2) < 1/4,  x 2/3 if > 3/4

Source: Rajeswaran et al. 2019, table 2; Martens 2010, sections 4.1 to 4.6; Nocedal & Wright 2006, algorithms 3.1 and 7.1.
"""

import torch


def newton_cg(objective, curvature, theta, weight, *, steps, cg_steps, damping, adapt_damping, rtol, progress_rtol,
              warm_start, max_backtracks, tolerance):  # fmt: skip
    """phi, a vector.

    Args:
        objective: vector -> support loss and proximal term.
        curvature: vector -> matrix C, of the support loss.
        theta: vector.
        weight: lambda, a number or a vector.
    """
    phi, last, first = theta, torch.zeros_like(theta), None
    for _ in range(steps):
        slope = gradient(objective, phi)
        first = slope.norm() if first is None else first
        if slope.norm() <= tolerance * max(1.0, first):
            break
        model = curvature(phi) + torch.diag(weight * torch.ones_like(phi))
        system = model + damping * torch.eye(len(phi)).to(phi)
        way = conjugate_gradients(system, -slope, warm_start * last, cg_steps, rtol, progress_rtol)
        if slope @ way >= 0:
            way = -slope
        before = objective(phi)
        length = 1.0
        while objective(phi + length * way) > before + 1e-4 * length * (slope @ way) + 4 * 2.0**-52 * before.abs():
            length /= 2
            if length < 2.0**-max_backtracks:
                length = 0.0
                break
        gained, promised = objective(phi + way) - before, slope @ way + way @ model @ way / 2
        if adapt_damping and gained / promised < 1 / 4:
            damping = damping * 3 / 2
        elif adapt_damping and gained / promised > 3 / 4:
            damping = damping * 2 / 3
        if length == 0.0:
            damping = 4 * damping + 1e-3
        phi, last = phi + length * way, way
    return phi


def conjugate_gradients(matrix, rhs, x, max_steps, rtol, progress_rtol):
    """From x. Stops at the residual, or when the last max(10, k/10) of k steps gained little of what all of them did."""
    values = [x @ matrix @ x / 2 - x @ rhs]
    r = rhs - matrix @ x
    p = r
    for k in range(max_steps):
        window = max(10, k // 10)
        slow = k >= window and values[k - window] - values[k] < window * progress_rtol * (values[0] - values[k])
        if r.norm() <= rtol * rhs.norm() or slow:
            break
        rate = (r @ r) / (p @ matrix @ p)
        x, before, r = x + rate * p, r, r - rate * (matrix @ p)
        p = r + (r @ r) / (before @ before) * p
        values.append(x @ matrix @ x / 2 - x @ rhs)
    return x


def gradient(function, at):
    at = at.detach().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]
