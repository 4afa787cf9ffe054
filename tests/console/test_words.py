"""metarun.console.words: numbers as every command prints them."""

import math

import pytest

from metarun.console.words import amount, fixed, interval


@pytest.mark.parametrize(
    ("value", "places", "sign", "words"),
    [
        (-0.04, 1, "", "0.0"),
        (-0.0, 3, "", "0.000"),
        (-0.04, 1, "+", "0.0"),
        (0.04, 1, "+", "0.0"),  # nor is it known to be above
        (-0.06, 1, "", "-0.1"),
        (0.06, 1, "+", "+0.1"),
        (-0.4, 0, "", "0"),
    ],
)
def test_what_rounds_to_zero_has_no_sign(value, places, sign, words):
    assert fixed(value, places, sign) == words


def test_amounts_and_intervals():
    assert [amount(value, True) for value in (-0.0004, 0.934)] == ["0.0", "93.4"]
    assert [amount(value, False) for value in (-0.0004, 0.352, -1.67e10)] == ["0.000", "0.352", "-1.67e+10"]
    assert amount(-0.0004, True, "+") == "0.0"
    assert interval(0.934, 0.0049, True) == "93.4 ± 0.5 %"
    assert (amount(math.nan, True), interval(None, None, True)) == ("not finite", "not finite")
