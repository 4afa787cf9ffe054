"""iMAML, written down naively: one task after another, plain autograd, matrices as matrices where they are small.

This is the readable explanation of the algorithm and the oracle of the batched one; it imports nothing from the package.

    inner:  phi = argmin loss(phi; support) + weight/2 |phi - theta|^2, by gradient descent from theta
    task:   g solves (I + C / weight) g = d loss(phi; query) / d phi,  C the curvature of loss(.; support) at phi
    outer:  the mean of g over tasks

C is the Hessian, or the Gauss-Newton matrix J' M J with J = d outputs / d phi and M = d2 loss / d outputs2.
Source: Rajeswaran, Finn, Kakade, Levine 2019, "Meta-learning with implicit gradients", algorithms 1 and 2.
"""

import torch


def meta_gradient(forward, loss, theta, tasks, *, steps, step_size, weight, curvature, cg_steps=None):
    """Mean query loss and meta-gradient; arguments as in `maml.meta_gradient`.

    `cg_steps` conjugate gradient steps, or None to form the matrix and solve exactly (small models only).
    """
    total, mean = 0.0, 0.0
    for (inputs, targets), (query_inputs, query_targets) in tasks:
        start = flat(theta.values())
        phi = start
        for _ in range(steps):
            phi = phi.detach().requires_grad_()
            slope = torch.autograd.grad(loss(forward(named(phi, theta), inputs, inputs), targets), phi)[0]
            phi = phi - step_size * (slope + weight * (phi - start))
        phi = phi.detach().requires_grad_()
        outputs = forward(named(phi, theta), inputs, inputs)
        query_loss = loss(forward(named(phi, theta), query_inputs, inputs), query_targets)
        query_slope = torch.autograd.grad(query_loss, phi)[0]
        product = {"hessian": hessian, "gauss_newton": gauss_newton}[curvature](phi, outputs, targets, loss)
        gradient = solve(lambda v, product=product: v + product(v) / weight, query_slope, cg_steps)
        total, mean = total + query_loss.detach() / len(tasks), mean + gradient / len(tasks)
    return total, named(mean, theta)


def hessian(phi, outputs, targets, loss):
    """v -> H v, by differentiating the gradient."""
    slope = torch.autograd.grad(loss(outputs, targets), phi, create_graph=True)[0]
    return lambda v: torch.autograd.grad(slope, phi, v, retain_graph=True)[0]


def gauss_newton(phi, outputs, targets, loss):
    """v -> J' M J v with J and M formed row by row."""
    jacobian = torch.stack([torch.autograd.grad(o, phi, retain_graph=True)[0] for o in outputs.flatten()])
    point = outputs.detach().requires_grad_()
    slope = torch.autograd.grad(loss(point, targets), point, create_graph=True)[0].flatten()
    metric = torch.stack([torch.autograd.grad(s, point, retain_graph=True)[0].flatten() for s in slope])
    return lambda v: jacobian.T @ (metric @ (jacobian @ v))


def solve(product, rhs, cg_steps):
    """The textbook's conjugate gradients from zero, or a dense solve."""
    if cg_steps is None:
        return torch.linalg.solve(torch.stack([product(unit) for unit in torch.eye(len(rhs)).to(rhs)], dim=1), rhs)
    x, r, p = torch.zeros_like(rhs), rhs, rhs
    for _ in range(cg_steps):
        q = product(p)
        rate = (r @ r) / (p @ q)
        x, r, before = x + rate * p, r - rate * q, r
        p = r + (r @ r) / (before @ before) * p
    return x if cg_steps else rhs


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def named(vector, like):
    pieces = vector.split([value.numel() for value in like.values()])
    return {name: piece.reshape(value.shape) for (name, value), piece in zip(like.items(), pieces, strict=True)}
