"""Finds what says a number in a text: digits of any script, number words, ratios, Roman numerals.

Numbers reach a text through slots alone, so that whatever is found here, outside of names and
slots, condemns its sentence. Nothing is parsed: that there is a number is enough.
"""

import re
import unicodedata

_WORDS = (
    "zero", "nought", "naught", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen", "twenty", "thirty", "forty", "fourty", "fifty", "sixty", "seventy",
    "eighty", "ninety", "hundred", "thousand", "million", "billion", "trillion", "dozen",
)  # fmt: skip
_PARTS = (
    "half", "halves", "halved?", "halving", "thirds?", "fourths?", "quarters?", "fifths?",
    "sixths?", "sevenths?", "eighths?", "ninths?", "tenths?", r"\w+teenths?", r"\w+tieths?",
    "hundredths?", "thousandths?", "millionths?", "elevenths?", "twelfths?",
)  # fmt: skip
_RATIOS = (
    "twice", "thrice", "doubl(?:e[ds]?|ing|y)", "tripl(?:e[ds]?|ing|y)", "quadrupl(?:e[ds]?|ing)",
    "percent", "per cent", "percentage", r"orders? of magnitude", "couple", "majority",
)  # fmt: skip
NOUNS = (
    "heads?|layers?|blocks?|neurons?|channels?|units?|experts?|attentions?|mlps?|norms?|convs?|"
    "convolutions?|linears?|components?|parameters?|samples?|inputs?|texts?|findings?|candidates?|"
    "proposals?|paths?|edges?|matrices|dimensions?|directions?|operations?|flops|bytes"
)
"""What texts count."""
_NUMBER = "|".join(_WORDS)
_NUMERAL = re.compile(
    rf"\b(?:{_NUMBER})(?:s|th|fold)?(?:[- ]?(?:and )?(?:{_NUMBER})(?:s|th|fold)?)*\b"
    rf"|\b(?:{'|'.join((*_PARTS, *_RATIOS))})\b"
    rf"|\b(?:one|an?\s+single)\s+(?:{NOUNS}|per\s?cent)\b"
    r"|\b(?:second|last|final|first)\s+(?:layer|block|head|attention|mlp|norm|linear)\b"
    r"|[%\u2030\u2031\u066a]",
    re.IGNORECASE,
)
_ROMAN = re.compile(
    rf"\b[IVXLCDM]\s+(?:{NOUNS})\b|"
    r"\b(?=[IVXLCDM]{2,}\b)M{0,4}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})\b"
)
_NAMED_SO = re.compile(r"DIGIT|NUMBER|NUMERAL|FRACTION|KEYCAP|HUNDRED|COUNTING ROD|TALLY")
"""Words in the names of characters that stand for numbers."""


def numbers_in(text: str) -> tuple[str, ...]:
    """What says a number in a text, names and slots taken out; empty when nothing does.

    Ordinals count ("the third layer"), as does "one head"; "one of them" does not. Words of other
    languages are not known.
    """
    found = [match[0] for match in _NUMERAL.finditer(text)]
    found += [match[0] for match in _ROMAN.finditer(text)]
    if text.isascii():
        return (*found, *re.findall("[0-9]", text))
    return (*found, *(character for character in text if is_numeric(character)))


def is_numeric(character: str) -> bool:
    """Whether a character is a digit, a fraction, a numeral or a picture of one, in any script."""
    if character.isascii():
        return character.isdigit()
    if character.isnumeric() or unicodedata.category(character)[0] == "N":
        return True
    return _NAMED_SO.search(unicodedata.name(character, "")) is not None


def in_digits(text: str) -> str:
    """The text with digits for numerals that normalising turns into letters, such as \u2165."""
    if text.isascii():
        return text

    def plain(character: str) -> str:
        letters = unicodedata.normalize("NFKC", character).isalpha()
        if character.isascii() or not letters or not character.isnumeric():
            return character
        return f"{unicodedata.numeric(character):g}"

    return "".join(map(plain, text))
