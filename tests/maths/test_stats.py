"""metarun.maths.stats against values worked out by hand and the printed tables of Student's distribution."""

import math

import pytest

from metarun.maths.stats import (
    count_words,
    diverged,
    has_score,
    student_t_half_width,
    student_t_quantile,
    student_t_within,
    summarize,
)


def test_mean_and_interval():
    """S9: sum of squares 0.2; ddof 1 gives 0.253035, where ddof 0 would give 0.219135."""
    summary = summarize([0.2, 0.4, 0.6, 0.8])
    assert summary.mean == pytest.approx(0.5, rel=1e-15)
    assert summary.std == pytest.approx(math.sqrt(0.2 / 3), rel=1e-14)
    assert summary.ci95 == pytest.approx(0.253035, abs=5e-7)
    assert summary.num_tasks == 4


def test_one_task_decides_a_mean_and_not_a_median():
    """599 tasks of 0.35 and one of 6e12: the mean is 1e10, its half-width nearly twice that."""
    summary = summarize([0.35] * 599 + [6e12], num_diverged=1)
    assert summary.mean == pytest.approx(1e10, rel=1e-9)
    assert summary.ci95 == pytest.approx(1.96e10, rel=1e-9)  # 1.96 x / n, of the one value x
    assert (summary.median, summary.num_diverged, summary.is_finite) == (0.35, 1, True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_mean_with_a_value_that_is_not_finite_is_none(value):
    summary = summarize([1.0, value, 3.0], num_diverged=1)
    assert all(map(math.isnan, (summary.mean, summary.std, summary.ci95)))
    assert summary.median == 3.0  # of 1, 3 and what ranks last
    assert not summary.is_finite
    assert not has_score({"mean": None, "num_tasks": 3})  # as a file has it


def test_no_score_where_every_task_diverged():
    assert summarize([0.0, 0.0, 0.0], num_diverged=2).is_finite
    assert not summarize([0.0, 0.0, 0.0], num_diverged=3).is_finite


def test_sums_beyond_the_largest_double():
    assert summarize([1.7e308, 1.7e308]).mean == math.inf
    wide = summarize([1e200, 3e200])
    assert (wide.mean, wide.std) == (2e200, math.inf)


def test_what_counts_as_diverged():
    assert diverged([1.0, math.nan, 2.0, math.inf], is_loss=False) == [1, 3]
    assert diverged([1.0, 100.0, 1.0, 100.1, math.inf], is_loss=True) == [4]  # the median is 50.5
    assert diverged([1.0, 100.0, 1.0, 100.1, 1.0], is_loss=True) == [3]
    assert diverged([1.0, 1e9, 1.0], is_loss=False) == []  # not a loss
    assert diverged([0.0, 0.0, 1e-9], is_loss=True) == []  # no scale
    assert diverged([-3.0, -2.0, 1.0], is_loss=True) == []
    assert diverged([math.nan] * 2, is_loss=True) == [0, 1]


def test_diverged_tasks_are_counted_and_named():
    assert count_words([133], 600) == "1 of 600 tasks: 133"
    assert count_words(range(9), 10) == "9 of 10 tasks: 0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert count_words([0, 1], 2) == "all 2 tasks"


def test_equal_values_have_no_width():
    assert summarize([0.3] * 5).ci95 == pytest.approx(0.0, abs=1e-16)
    assert student_t_half_width([0.3] * 5) == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_are_refused(values):
    with pytest.raises(ValueError, match=f"at least 2 tasks, got {len(values)}"):
        summarize(values)
    assert student_t_half_width(values) is None


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    # Printed to three decimals in every table: Abramowitz and Stegun 26.10, column A = 0.95.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228), (29, 2.045), (30, 2.042),
     (60, 2.000), (120, 1.980)],
)  # fmt: skip
def test_quantiles_of_the_printed_table(degrees, quantile):
    assert student_t_quantile(0.975, degrees) == pytest.approx(quantile, abs=5.1e-4)


def test_quantiles_with_a_closed_form():
    """One degree is Cauchy's distribution, tan(pi (p - 1/2)); two degrees give a / sqrt((1 - a^2) / 2), a = 2p - 1."""
    for probability in (0.6, 0.9, 0.975, 0.9995):
        a = 2 * probability - 1
        assert student_t_quantile(probability, 1) == pytest.approx(math.tan(math.pi * a / 2), rel=1e-12)
        assert student_t_quantile(probability, 2) == pytest.approx(a / math.sqrt((1 - a * a) / 2), rel=1e-12)


def test_many_degrees_are_the_normal_distribution():
    """The first term of the expansion in 1/n (Abramowitz and Stegun 26.7.5): z + (z^3 + z) / (4 n)."""
    z = 1.959963984540054
    assert student_t_quantile(0.975, 1000) == pytest.approx(z + (z**3 + z) / 4000, abs=2e-5 / 4)


@pytest.mark.parametrize("degrees", range(1, 13))
def test_the_distribution_function_is_the_integral_of_its_density(degrees):
    """Simpson's rule on the density, whose normalisation comes from the gamma function."""
    scale = math.gamma((degrees + 1) / 2) / math.sqrt(degrees * math.pi) / math.gamma(degrees / 2)
    for t in (0.3, 1.0, 2.5):
        n = 200
        points = [t * i / n for i in range(n + 1)]
        density = [scale * (1 + x * x / degrees) ** (-(degrees + 1) / 2) for x in points]
        weights = [1, *[4, 2] * (n // 2 - 1), 4, 1]
        integral = 2 * math.fsum(w * d for w, d in zip(weights, density, strict=True)) * t / n / 3
        assert student_t_within(t, degrees) == pytest.approx(integral, abs=1e-9)


def test_an_interval_over_three_seeds():
    """Mean 2, std 1, and t from its closed form: 4.303 / sqrt(3), 2.2 times what the normal distribution would claim."""
    t = 0.95 / math.sqrt((1 - 0.95**2) / 2)
    assert student_t_half_width([1.0, 2.0, 3.0]) == pytest.approx(t / math.sqrt(3), rel=1e-12)


def test_a_value_that_is_not_finite_has_no_interval():
    assert math.isnan(student_t_half_width([1.0, math.nan, 2.0]))
    assert math.isnan(student_t_half_width([1.0, math.inf]))


@pytest.mark.parametrize(("probability", "degrees"), [(0.5, 3), (1.0, 3), (0.975, 0)])
def test_quantiles_that_do_not_exist_are_refused(probability, degrees):
    with pytest.raises(ValueError, match=f"got {probability} and {degrees}"):
        student_t_quantile(probability, degrees)
