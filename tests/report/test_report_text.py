"""Numbers and foreign text as people read them."""

import unicodedata

import pytest
from report_records import HOSTILE

from zsei.records import Measurement
from zsei.report.text import (
    aligned,
    amount,
    brief,
    clean,
    count,
    describe,
    number,
    one_line,
    percent,
    plural,
    seconds,
    settings,
    short,
    size,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (0.0, "0"), (12, "12"), (22_713_216, "22,713,216"),
        (-3.0, "-3"), (0.12345, "0.1235"), (1234.56, "1,235"), (1.2e-5, "1.20e-5"),
        (3.4e12 + 0.5, "3.40e12"), (-0.00009, "-9.00e-5"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_a_number_keeps_its_value_to_four_digits():
    for exponent in range(-12, 12):
        for mantissa in (1.0, 1.2345678, 9.9994, -3.14159):
            value = mantissa * 10.0**exponent
            assert float(number(value).replace(",", "")) == pytest.approx(value, rel=6e-3)


def test_a_column_has_one_number_of_decimals_and_hides_no_value():
    texts = aligned([0.4, 0.1333333, None, 0.0001, 1e-9, 0.0])
    assert texts == ["0.4000", "0.1333", "–", "0.0001", "1.00e-9", "0.0000"]
    assert aligned([3, 12, None]) == ["3", "12", "–"]
    assert aligned([2e-6, 5e-7]) == ["2.00e-6", "5.00e-7"]
    assert aligned([]) == []
    assert aligned([12345.6, 1.0]) == ["12,346", "1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(22_713_216), "22.7 M"), (count(999.96), "1000"), (count(12), "12"),
        (size(90_852_864), "86.6 MiB"), (size(12), "12 B"), (seconds(0.0123), "12.3 ms"),
        (seconds(185.2), "3 min 5 s"), (seconds(0), "0 s"), (seconds(3e-9), "3e-09 s"),
        (percent(0.0416), "4.2 %"), (percent(0.00001), "0.001 %"), (percent(0.0), "0.0 %"),
        (amount(1.4e9, "operations per sample"), "1.4 GFLOP per sample"),
        (amount(98304, "bytes per sample"), "96 KiB per sample"), (amount(0.05, "share"), "5.0 %"),
        (amount(16.0, "count"), "16"), (amount(0.031, "1 - cos"), "0.031 (1 - cos)"),
        (amount(None, "share"), "could not tell"), (plural("branch"), "branches"),
        (plural("head"), "heads"),
    ],
)  # fmt: skip
def test_short_forms(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"fraction": 0.25, "a": True}, "a true, fraction 0.25"),
        ({"units": [[1, 2, 3], [4], list(range(90))]}, "units 3 + 1 + 90"),
        ({"units": list(range(40))}, "units 40 of them"),
        ({"units": [1, 2]}, "units [1, 2]"),
        ({}, ""),
    ],
)
def test_parameters_of_edits_stay_short(params, text):
    assert settings(params) == text


def test_could_not_tell_is_never_a_zero():
    untold = Measurement(name="rank", value=None, state="could not tell", note="too few")
    assert describe(untold) == "rank = could not tell (counted); too few"


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("function", [clean, one_line, short])
def test_clean_text_has_no_controls_and_no_marks_of_direction(text, function):
    shown = function(text)
    for character in shown:
        assert unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} or (
            character in "\n\t" and function is clean
        )
    assert len(shown) <= 4040


def test_unsafe_characters_are_spelled_out_rather_than_dropped():
    assert clean("a\u202eb\x1b[31m\ud800") == "a\\u202eb\\u001b[31m\\ud800"
    assert clean("line\nnext\ttab") == "line\nnext\ttab"
    assert one_line("a\n\n b\t c") == "a b c"
    assert clean("zażółć 模型 é") == "zażółć 模型 é"


def test_towers_of_marks_are_lowered():
    assert len(clean("a" + "\u0301" * 500)) < 8


def test_clipping_says_what_is_missing():
    assert clean("x" * 50, 40) == "x" * 40 + " … (10 more characters)"
    assert short("encoder.layer.11.attention.output.LayerNorm", 20) == "encode…put.LayerNorm"
    assert len(short("y" * 200_000, 30)) == 30
    assert brief("one two three four", 10) == "one two …"
