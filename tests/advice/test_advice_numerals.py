"""Numbers in digits and in words, with the precision they are stated at."""

import pytest

from zsei.advice.numerals import find_numerals


@pytest.mark.parametrize(
    ("text", "value", "half_step"),
    [
        ("0.93", 0.93, 0.005),
        ("it is 12.", 12, 0.5),
        (".5", 0.5, 0.05),
        ("-0.25", -0.25, 0.005),
        ("\u22120.25", -0.25, 0.005),
        ("22,713,216", 22_713_216, 0.5),
        ("22.7M", 22.7e6, 0.05e6),
        ("22.7 million", 22.7e6, 0.05e6),
        ("10 MiB", 10 * 1024**2, 0.5 * 1024**2),
        ("1.5 GFLOPs", 1.5e9, 0.05e9),
        ("1.2e-5", 1.2e-5, 0.05e-5),
        ("3.0 x 10^-4", 3e-4, 0.05e-4),
        ("twelve", 12, 0.5),
        ("Ninety-three", 93, 0.5),
        ("two hundred and five thousand", 205_000, 0.5),
        ("a dozen", 12, 0.5),
        ("two dozen", 24, 0.5),
        ("half", 0.5, 0.05),
        ("a third", 1 / 3, 0.05),
        ("two thirds", 2 / 3, 0.05),
        ("\u0663\u0664", 34, 0.5),
    ],
)
def test_value_and_precision(text: str, value: float, half_step: float) -> None:
    (numeral,) = find_numerals(text)
    assert numeral.value == pytest.approx(value, rel=1e-12)
    assert numeral.half_step == pytest.approx(half_step, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "percent", "times", "whole"),
    [
        ("93 %", True, False, False),
        ("93 percent", True, False, False),
        ("one per cent", True, False, False),
        ("3x", False, True, True),
        ("3 times", False, True, True),
        ("threefold", False, True, True),
        ("2.5 times", False, True, False),
        ("12", False, False, True),
        ("12 k", False, False, False),
    ],
)
def test_form(text: str, percent: bool, times: bool, whole: bool) -> None:
    (numeral,) = find_numerals(text)
    assert (numeral.percent, numeral.times, numeral.whole) == (percent, times, whole)


@pytest.mark.parametrize(
    "text", ["one of them", "the third layer", "the first quarter", "none", ""]
)
def test_what_is_no_number(text: str) -> None:
    assert find_numerals(text) == ()


def test_several_in_order() -> None:
    found = find_numerals("0.2-0.4 of twelve, then 3, a half and 50%")
    assert [numeral.value for numeral in found] == [0.2, 0.4, 12, 3, 0.5, 50]


@pytest.mark.parametrize(
    "text", ["9" * 5000, "1e99999999", "1." + "1" * 5000, "0." + "0" * 900 + "1"]
)
def test_absurd_numbers_stay_finite(text: str) -> None:
    for numeral in find_numerals(text):
        assert abs(numeral.value) < float("inf")
        assert 0 <= numeral.half_step < float("inf")
