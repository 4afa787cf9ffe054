"""MAML and first-order MAML, written down naively: one task after another, one step after another, plain autograd.

This is the readable explanation of the algorithm and the oracle of the batched one; it imports nothing from the package.

    inner:  phi_0 = theta;  phi_k+1 = phi_k - step_size * d loss(phi_k; support) / d phi_k
    outer:  gradient of the mean over tasks of loss(phi_K; query) with respect to theta
    first order:  the inner slopes count as constants, so that d phi_K / d theta = I

Source: Finn, Abbeel, Levine 2017, "Model-agnostic meta-learning", algorithms 1 and 2 and section 5.2.
"""

import torch


def meta_gradient(forward, loss, theta, tasks, *, steps, step_size, first_order=False):
    """Mean query loss and its gradient.

    Args:
        forward: (params, inputs, support inputs) -> outputs, of one task.
        loss: (outputs, targets) -> scalar.
        theta: named tensors.
        tasks: list of ((support inputs, support targets), (query inputs, query targets)).
        steps: inner gradient steps.
        step_size: of the inner gradient steps.
        first_order: leave out the second derivatives.
    """
    theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    total = 0.0
    for (inputs, targets), (query_inputs, query_targets) in tasks:
        phi = theta
        for _ in range(steps):
            support_loss = loss(forward(phi, inputs, inputs), targets)
            slopes = torch.autograd.grad(support_loss, list(phi.values()), create_graph=not first_order)
            phi = {name: value - step_size * slope for (name, value), slope in zip(phi.items(), slopes, strict=True)}
        total = total + loss(forward(phi, query_inputs, inputs), query_targets) / len(tasks)
    gradients = torch.autograd.grad(total, list(theta.values()))
    return total.detach(), dict(zip(theta, gradients, strict=True))
