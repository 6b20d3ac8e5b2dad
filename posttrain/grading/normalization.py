"""One writing for formulas that differ only in how they are written."""

from __future__ import annotations

import functools
import re

MOST_CHARACTERS = 600
"""Longer texts are no final answers, and are compared as they stand."""
# Stands for the double backslash at the end of a matrix's row, while others are undone.
_ROW_END = "¶"
_TEXT = r"\\(?:text|mbox|hbox|mathrm|textbf|textit|textrm|textnormal|mathbf|mathit|bf|rm)"
# Names of one unit -> its own; units that are not listed are let go without a look.
_UNIT_NAMES = {
    name: names.split()[0]
    for names in (
        "m meter meters metre metres",
        "cm centimeter centimeters centimetre centimetres",
        "mm millimeter millimeters millimetre millimetres",
        "km kilometer kilometers kilometre kilometres",
        "in inch inches",
        "ft foot feet",
        "yd yard yards",
        "mi mile miles",
        "h hour hours hr hrs",
        "min minute minutes",
        "s second seconds sec",
        "day days",
        "week weeks",
        "month months",
        "year years",
        "cent cents",
        "dollar dollars",
        "kg kilogram kilograms",
        "g gram grams",
        "lb lbs pound pounds",
        "oz ounce ounces",
        "degree degrees",
        "radian radians",
    )
    for name in names.split()
}
# Words that stand beside a unit, or count things. They part no two answers.
_COUNTED = (
    *("units", "unit", "square", "sq", "cubic", "cu", "mph", "points", "point", "people"),
    *("students", "student", "ways", "way", "liters", "liter", "gallons", "gallon", "percent"),
    *("pct", "percentage", "per"),
)
# A single letter is a unit inside of \text{} alone; elsewhere it is a variable.
_LONG = [name for name in (*_UNIT_NAMES, *_COUNTED) if len(name) > 1]
_WORD = "(?:" + "|".join(sorted(_LONG, key=len, reverse=True)) + ")"
_POWER = r"(?:\s*\^\s*\{?\s*[23]\s*\}?)?"
_UNIT = re.compile(
    rf"(?<=[\d)}}\]a-z$°])\s*(?:{_TEXT}\s*\{{(?P<text>[^{{}}]*)\}}{_POWER}"
    rf"|(?<![a-zA-Z\\])(?P<words>{_WORD}(?![a-zA-Z]){_POWER}"
    rf"(?:\s+{_WORD}(?![a-zA-Z]){_POWER})*))\s*\.?\s*\$?$"
)
_PERCENT = re.compile(r"\\?%|(?<![a-zA-Z])(?:percent(?:age)?|pct)(?![a-zA-Z])")
_SPACE = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])|\s+")
_PARENTHESIZED = re.compile(r"\([a-zA-Z]\)")
_THIN = re.compile(r"\\!\s*")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Exports that escaped twice; in matrices a double backslash ends a row.
        (r"\\\\(?=[a-zA-Z])", r"\\"),
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:dfrac|tfrac|cfrac)(?![a-z])", r"\\frac"),
        (r"\\(?:dbinom|tbinom)(?![a-z])", r"\\binom"),
        (r"\{,\}", ","),
        (rf"(?<=\d)\s*\^\s*\{{?\s*(?:{_TEXT}\s*\{{)?\s*(?:st|nd|rd|th)\s*\}}?\s*\}}?", ""),
        (_THIN.pattern, ""),
        (r"(?<=\d)(?:\\,|~|\s)+(?=\d{3}(?!\d))", ""),
        (r"(?<![_^]\d)(?<=\d)\s+(?=\d)", "~"),
        (r"\\(?:[,;:> ]|quad|qquad)", " "),
        (r"\\ *$", ""),
        (r"\\(?:\$|pounds|euro)|[$€£¥]", ""),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![a-z])|°", ""),
        (_PERCENT.pattern, ""),
        (rf"{_TEXT}\s*\{{([^{{}}]*)\}}", r" \1 "),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"(?<![\w.}^)])(-?\d+)\s*/\s*(\d+)(?![\w.(\\{^])", r"\\frac{\1}{\2}"),
        (r"\\frac\{-", r"-\\frac{"),
        (r"(?<!\d)\.(?=\d)", "0."),
        (r"\\(?:cdot|times|ast)(?![a-zA-Z])|×|·", "*"),
        (r"\\(?:le|leqslant|leqq)(?![a-zA-Z])|<=|≤", r"\\leq"),
        (r"\\(?:ge|geqslant|geqq)(?![a-zA-Z])|>=|≥", r"\\geq"),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\ne(?![a-zA-Z])|!=|≠|\\not\s*=", r"\\neq"),
        (r"\\lbrace(?![a-z])", r"\\{"),
        (r"\\rbrace(?![a-z])", r"\\}"),
        (r"\\[lr]vert(?![a-z])|\\mid(?![a-z])", "|"),
        (r"\\(?:over|under)line\s*\{([^{}]*)\}", r"\1"),
        (r"∞", r"\\infty"),
        (r"∪", r"\\cup"),
        (r"±", r"\\pm"),
        (r"√", r"\\sqrt"),
        (r"π", r"\\pi"),
        (r"[−–]", "-"),
        (r"\.\s*$", ""),
    )
)


@functools.lru_cache(maxsize=4096)
def normalize_formula(text: str) -> str:
    r"""Bring a formula to the writing in which equal ones are mostly the same string.

    Sizes, spacing, text wrappers, currency and percent signs, degrees, and units behind a number
    are let go; fractions get one form.

    Args:
        text: LaTeX or words, without the box around it.

    Returns:
        The text without spaces; words in lower case. Too long a text comes back as it is.
    """
    if len(text) > MOST_CHARACTERS:
        return text.strip()
    text = split_unit(text.strip())[0]
    if "\\begin" in text:
        text = text.replace("\\\\", _ROW_END)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    # Without its space, "\\sin x" would be another command.
    text = _SPACE.sub(lambda found: f"{found[1]} " if found[1] else "", text.strip())
    if _PARENTHESIZED.fullmatch(text):
        return text[1]
    text = text.replace(_ROW_END, "\\\\")
    return text.lower() if len(text) > 1 and text.isalpha() else text


def split_unit(text: str) -> tuple[str, str]:
    """Part a formula from the unit behind it.

    Returns:
        The formula, and the unit's own name where it is a known one, else an empty string.
    """
    found = _UNIT.search(text)
    if not found or not text[: found.start()].strip(" $"):
        return text, ""
    written = found["text"] or found["words"] or ""
    words = re.findall("[a-z]+", written.lower())
    # 3\text{A} has a digit of base sixteen; "and" and "or" part two answers.
    if set(words) & {"and", "or"} or (len(written) == 1 and written.isupper()):
        return text, ""
    names = [_UNIT_NAMES[word] for word in words if word in _UNIT_NAMES]
    return text[: found.start()], names[0] if names else ""


def has_percent(text: str) -> bool:
    """Whether a formula bears a percent sign or the word."""
    return _PERCENT.search(text) is not None


def join_thousands(text: str) -> str:
    """Take the commas that group thousands out of a formula; inside of brackets they part a list.

    Args:
        text: Not normalized: "1, 234" has a space, and is a list.
    """
    plain = _THIN.sub("", text.replace("{,}", ","))
    if set(plain) & set("()[]") or "\\{" in plain:
        return text
    return _THOUSANDS.sub(lambda found: found[0].replace(",", ""), plain)


def read_decimal_comma(text: str) -> str:
    """Write "1,22" as "1.22"; other texts stay."""
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text
