"""Curvature matrices of one task, formed row by row with plain autograd.

    Hessian:       d2 loss / d phi2
    Gauss-Newton:  J' M J,  J = d outputs / d phi,  M = d2 loss / d outputs2
    Fisher:        mean over the inputs of  E_y [ d log p(y|x) d log p(y|x)' ],  y drawn from the model itself

Source: Schraudolph 2002, section 3; Martens 2020, sections 5 and 8.
"""

import torch


def rows(values, at, *, keep=True):
    """d values / d at, a row for each value."""
    return torch.stack(
        [
            torch.autograd.grad(v, at, retain_graph=True, create_graph=keep, materialize_grads=True)[0].flatten()
            for v in values.flatten()
        ]
    ).detach()


def hessian(loss, phi):
    """Of loss: vector -> scalar."""
    phi = phi.detach().requires_grad_()
    return rows(torch.autograd.grad(loss(phi), phi, create_graph=True)[0], phi)


def gauss_newton(outputs, loss, phi):
    """Of outputs: vector -> tensor and loss: outputs -> scalar."""
    phi = phi.detach().requires_grad_()
    predicted = outputs(phi)
    jacobian = rows(predicted, phi)
    return jacobian.T @ hessian(lambda o: loss(o.reshape(predicted.shape)), predicted.detach().flatten()) @ jacobian


def fisher_of_softmax(logits, phi):
    """Of logits: vector -> [S, N]."""
    phi = phi.detach().requires_grad_()
    log_p = logits(phi).log_softmax(1)
    scores = rows(log_p, phi)  # one row for each input and class
    return (scores.T * log_p.detach().exp().flatten()) @ scores / len(log_p)


def fisher_of_gaussian(means, phi):
    """Of means: vector -> [S, m], with the variance m/2 for which the negative log-likelihood is the mean squared error."""
    phi = phi.detach().requires_grad_()
    predicted = means(phi)
    jacobian = rows(predicted, phi)
    return jacobian.T @ jacobian * 2 / predicted.numel()
