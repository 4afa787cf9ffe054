"""How far draws may lie from what they are drawn from: four standard deviations of the statistic."""

import torch


def is_uniform(drawn, cells=20):
    """Whether chi-squared of counts in equal cells of [0, 1) allows it: mean cells - 1, variance 2 (cells - 1)."""
    drawn = drawn.flatten().double()
    assert float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    return counts_as(torch.histc(drawn, cells, 0, 1), torch.full((cells,), 1 / cells, dtype=torch.float64))


def counts_as(counts, probabilities):
    """Whether chi-squared allows counts to come from these probabilities, all > 0."""
    expected = counts.sum() * probabilities
    free = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum()) < free + 4 * (2 * free) ** 0.5


def has_mean(values, mean):
    """Whether the mean lies within four of its standard errors, which the values tell."""
    values = values.flatten().double()
    return abs(float(values.mean()) - mean) < 4 * float(values.std()) / len(values) ** 0.5
