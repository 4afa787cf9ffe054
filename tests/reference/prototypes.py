"""Prototypical networks as a linear head, written down naively for one task.

    c_k = mean of the embeddings of class k;  -|e - c_k|^2 = 2 c_k'e - |c_k|^2 - |e|^2, and the softmax does not see |e|^2

Source: Snell, Swersky, Zemel 2017, equations 1, 2 and 8.
"""

import torch


def head_of_prototypes(embeddings, targets, ways):
    """Weight [N, size] and bias [N] of the head, from embeddings [S, size] and class ids [S]."""
    centres = torch.stack([embeddings[targets == k].mean(0) for k in range(ways)])
    return 2 * centres, -(centres**2).sum(1)


def logits_by_distance(embeddings, centres):
    """-|e - c_k|^2, [Q, N]: what the head's logits are but for a number for each example."""
    return torch.stack([torch.stack([-((e - c) @ (e - c)) for c in centres]) for e in embeddings])
