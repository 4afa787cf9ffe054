"""metarun.report.interval_plots: where a mean and its intervals are drawn, and the scale that says so."""

import math
import re

import pytest

from metarun.report.cells import Estimate
from metarun.report.interval_plots import interval_plots

from .made import only_grid, write_run


@pytest.fixture
def grid(tmp_path):
    """Of a loss: its decimals and unit are all that is taken from it."""
    write_run(tmp_path, {5: [1.0, 2.0, 3.0, 4.0]}, score="mse")
    return only_grid(tmp_path)


@pytest.fixture
def percent(tmp_path):
    write_run(tmp_path, {5: [0.1, 0.2, 0.3, 0.4]})
    return only_grid(tmp_path)


def circles(plots) -> list[float]:
    return [float(re.search(r'circle cx="([\d.]+)"', row)[1]) for row in plots.rows if row]


def scale(plots) -> list[tuple[float, str]]:
    return [(float(x), words) for x, words in re.findall(r'<text x="([\d.]+)"[^>]*>([^<]+)<', plots.axis)]


def lines(row: str, kind: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(rf'class="{kind}" x1="([\d.]+)" x2="([\d.]+)"', row)]


def test_the_scale_below_tells_where_a_mean_is(grid):
    """From 1 to 3 with 6 % on both sides: 0.88 to 3.12 on 260 pixels, so 1 is at 13.93, 2 at 130, 3 at 246.07."""
    plots = interval_plots(
        [Estimate(1.0, None, None), Estimate(2.0, None, 0.5), Estimate(3.0, None, None)], grid, zero=False
    )
    assert circles(plots) == [13.93, 130.0, 246.07]
    assert scale(plots) == [(13.93, "1"), (130.0, "2"), (246.07, "3")]
    assert lines(plots.rows[1], "tasks") == [(71.96, 188.04)]
    assert lines(plots.rows[0], "grid") == [(x, x) for x, _ in scale(plots)]


def test_accuracy_is_in_percent(percent):
    plots = interval_plots([Estimate(0.2, None, None), Estimate(0.4, None, None)], percent, zero=False)
    assert [words for _, words in scale(plots)] == ["20", "30", "40"]
    assert [x for x, _ in scale(plots)][::2] == circles(plots)


def test_means_that_span_decades_are_on_a_logarithmic_scale(grid):
    """Equal ratios are equal distances, an interval that reaches to zero ends at the edge with a sign."""
    plots = interval_plots(
        [Estimate(1.0, None, 2.0), Estimate(10.0, None, 1.0), Estimate(100.0, None, 1.0)], grid, zero=False
    )
    one, ten, hundred = circles(plots)
    assert ten - one == pytest.approx(hundred - ten, abs=0.02)
    assert [words for _, words in scale(plots)] == ["1", "10", "100"]
    assert [x for x, _ in scale(plots)] == [one, ten, hundred]
    assert lines(plots.rows[0], "tasks")[0][0] == 0.0 and "M0 13 l6" in plots.rows[0]
    linear = interval_plots([Estimate(1.0, None, None), Estimate(30.0, None, None)], grid, zero=False)
    assert [words for _, words in scale(linear)] == ["0", "10", "20", "30"]


def test_differences_stand_about_zero(grid):
    plots = interval_plots([Estimate(-1.0, 0.5, None), Estimate(100.0, 0.5, None)], grid, zero=True)
    (zero,) = lines(plots.rows[0], "zero")
    assert zero[0] == dict(map(reversed, scale(plots)))["0"]
    assert (
        "-0" not in plots.axis and 'aria-label="-1.000"' in plots.rows[0] and 'aria-label="+100.000"' in plots.rows[1]
    )


def test_the_key_has_the_intervals_that_are_drawn(grid):
    def key(*estimates: Estimate) -> list[str]:
        return re.findall(r"</svg> (\w+)", interval_plots(estimates, grid, zero=False).key)

    assert key(Estimate(1.0, 0.1, 0.2), Estimate(2.0, None, None)) == ["tasks", "seeds"]
    assert key(Estimate(1.0, None, 0.2)) == ["tasks"]
    assert key(Estimate(1.0, 0.2, math.nan)) == ["seeds"]
    assert key(Estimate(1.0, None, None)) == []


def test_without_a_mean_there_is_nothing(grid):
    assert interval_plots([None, Estimate(math.nan, None, None)], grid, zero=False) is None
    assert interval_plots([None, Estimate(1.0, None, None)], grid, zero=False).rows[0] == ""
