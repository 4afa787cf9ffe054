"""The interval over tasks, on numbers worked out by hand."""

import math

import pytest

from metarun.maths.stats import summarize


def test_mean_and_interval():
    """S9: sum of squares 0.2; ddof 1 gives 0.253035, where ddof 0 would give 0.219135."""
    summary = summarize([0.2, 0.4, 0.6, 0.8])
    assert summary.mean == pytest.approx(0.5, rel=1e-15)
    assert summary.std == pytest.approx(math.sqrt(0.2 / 3), rel=1e-14)
    assert summary.ci95 == pytest.approx(0.253035, abs=5e-7)
    assert summary.num_tasks == 4


def test_equal_values_have_no_width():
    assert summarize([0.3] * 5).ci95 == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_are_refused(values):
    with pytest.raises(ValueError, match=f"at least 2 tasks, got {len(values)}"):
        summarize(values)
