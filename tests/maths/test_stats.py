"""metarun.maths.stats against values worked out by hand and the printed tables of Student's distribution."""

import math

import pytest

from metarun.maths.stats import student_t_half_width, student_t_quantile, student_t_within, summarize


def test_mean_and_interval():
    """S9: sum of squares 0.2; ddof 1 gives 0.253035, where ddof 0 would give 0.219135."""
    summary = summarize([0.2, 0.4, 0.6, 0.8])
    assert summary.mean == pytest.approx(0.5, rel=1e-15)
    assert summary.std == pytest.approx(math.sqrt(0.2 / 3), rel=1e-14)
    assert summary.ci95 == pytest.approx(0.253035, abs=5e-7)
    assert summary.num_tasks == 4


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
