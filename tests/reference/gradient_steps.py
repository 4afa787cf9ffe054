"""Inner solvers that take gradient steps, written down naively for one task, with a graph back to theta.

    every step:  phi <- phi - rate * (d loss(phi) / d phi + weight * (phi - theta))
    searched:    rate is halved until the objective falls by 0.3 of what its slope promises
    pull-back:   the steps descend the loss alone; at the end  phi <- phi - rate * weight * (phi - theta)

Source: Finn, Abbeel, Levine 2017, equation 1; Rajeswaran et al. 2019, section 3, and their released code (pull-back); Li et al.
2017 (a rate for each parameter); Antoniou et al. 2019 (a rate for each layer and step); Nocedal & Wright 2006, algorithm 3.1.
"""

import torch


def descend(loss, theta, weight, rate, *, steps):
    """theta and the phi after each step.

    Args:
        loss: phi -> support loss.
        theta: named tensors, the adapted ones.
        weight: name -> lambda, a number or a tensor.
        rate: (name, step) -> step size, a number or a tensor.
    """
    path = [theta]
    for step in range(steps):
        phi = path[-1]
        slope = dict(zip(phi, torch.autograd.grad(loss(phi), list(phi.values()), create_graph=True), strict=True))
        path.append({n: v - rate(n, step) * (slope[n] + weight[n] * (v - theta[n])) for n, v in phi.items()})
    return path


def descend_and_pull_back(loss, theta, weight, rate, *, steps):
    """As `descend`; the last phi is the pulled one."""
    path = descend(loss, theta, dict.fromkeys(theta, 0.0), rate, steps=steps)
    phi = path[-1]
    return [*path, {n: v - rate(n, steps) * weight[n] * (v - theta[n]) for n, v in phi.items()}]


def searched_rates(objective, phi, *, step_size, steps, max_backtracks):
    """The sizes of the steps from phi, a vector; 0 where none was accepted."""
    rates = []
    for _ in range(steps):
        leaf = phi.detach().requires_grad_()
        before = objective(leaf)
        (slope,) = torch.autograd.grad(before, leaf)
        before, rounding = before.item(), 4 * torch.finfo(phi.dtype).eps * abs(before.item())
        tried = [step_size * 0.5**halvings for halvings in range(max_backtracks + 1)]
        promised = 0.3 * (slope @ slope).item()
        good = (a for a in tried if objective(phi - a * slope).item() <= before - a * promised + rounding)
        rates.append(next(good, 0.0))
        phi = (phi - rates[-1] * slope).detach()
    return rates
