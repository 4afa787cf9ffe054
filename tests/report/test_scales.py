"""metarun.report.scales: which axis is logarithmic, and where its ticks are."""

import math

import pytest

from metarun.report.scales import is_logarithmic, ticks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 10**1.5], False),
        ([1.0, 32.0], True),  # 10 ** 1.5 is 31.6
        ([0.0, 1.0, 32.0], False),
        ([-1.0, 32.0], False),
        ([1.0, 2.0, math.nan, math.inf], False),
        ([math.nan, 1e-9, 1.0], True),
        ([], False),
    ],
)
def test_a_decade_and_a_half_of_positive_numbers(values, expected):
    assert is_logarithmic(values) is expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (61.0, 90.0, ["70", "80", "90"]),
        (-0.3, 0.5, ["-0.2", "0.0", "0.2", "0.4"]),
        (0.0, 1.0, ["0.0", "0.5", "1.0"]),
        (-3.0, 161.0, ["0", "50", "100", "150"]),
        (0.01234, 0.01236, ["0.012340", "0.012345", "0.012350", "0.012355", "0.012360"]),
        (0.0, 4e6, ["0", "1e+06", "2e+06", "3e+06", "4e+06"]),
    ],
)
def test_round_numbers_and_no_minus_before_a_zero(low, high, expected):
    found = ticks(low, high, 4)
    assert [words for _, words in found] == expected
    assert all(float(words) == pytest.approx(value, abs=1e-12) for value, words in found)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.9, 60.0, ["1", "3", "10", "30"]),
        (1.1, 12.0, ["2", "5", "10"]),
        (0.9, 1200.0, ["1", "10", "100", "1000"]),
        (1e-9, 1e9, ["1e-09", "0.0001", "10", "1e+06"]),
    ],
)
def test_powers_of_ten_and_what_is_between_where_there_is_room(low, high, expected):
    assert [words for _, words in ticks(low, high, 4, is_log=True)] == expected
