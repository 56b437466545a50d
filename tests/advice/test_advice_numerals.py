"""Whatever says a number is found: digits of any script, words, ratios, Roman numerals."""

import pytest

from zsei.advice.numerals import in_digits, is_numeric, numbers_in

NUMBERS = [
    "0.93", "it is 12.", ".5", "22,713,216", "22.7M", "1.2e-5", "10^4", "x2", "3x", "L9",
    "twelve", "Ninety-three", "two hundred and five", "twohundred", "a dozen", "two dozen",
    "half", "a third", "two thirds", "three-quarters", "halved", "an eighth", "one per cent",
    "twice", "thrice", "doubles", "doubling", "tripled", "threefold", "hundredfold", "percent",
    "many per cent", "a percentage", "93 %", "so many %", "9\u2030", "an order of magnitude",
    "the third layer", "the seventh head", "the second layer", "the last block", "one head",
    "a single layer", "V heads", "a couple of heads", "a majority", "millions",
    "II", "XII", "MMXXVI",
    "\u0663\u0664", "\uff19", "\u00bd", "\u00b2", "\u2167", "\u2468", "\u4e09", "\U0001d7d7",
    "\U0001f51f", "9\ufe0f\u20e3", "\U0001f4af", "\u0be7", "&#57;",
]  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_what_says_a_number(text: str) -> None:
    assert numbers_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "one of them", "one by one", "no one", "none of the heads", "both", "a pair", "several",
        "in the first place", "a second opinion", "seconds", "first blocks", "manifold", "unfold",
        "scaffold", "the MLP", "I", "a V matrix", "tend", "fort", "foursome",
        "attention", "weight", "often", "\u00e9l\u00e8ve", "na\u00efve", "Stone", "bone", "money",
    ],
)  # fmt: skip
def test_what_is_no_number(text: str) -> None:
    assert numbers_in(text) == ()


def test_numerals_that_normalising_would_hide_become_digits() -> None:
    assert in_digits("\u2164 heads") == "5 heads"
    assert in_digits("caf\u00e9 A") == "caf\u00e9 A"
    assert numbers_in(in_digits("layer \u2160"))


def test_every_character_that_unicode_calls_a_number_is_one() -> None:
    """Oracle: the standard's own properties, character by character."""
    for code in range(0x20000):
        character = chr(code)
        if character.isdigit() or character.isdecimal() or character.isnumeric():
            assert is_numeric(character), hex(code)
    assert not any(map(is_numeric, "abcxyzABC .,-()%'\"`/"))
