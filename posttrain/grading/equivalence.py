"""Whether two written answers mean the same, as far as it can be told without algebra."""

from __future__ import annotations

import re
from decimal import Decimal

_WRITTEN = re.compile(r"[-+]?(?:\d{1,3}(?:[, ]\d{3})+|\d+)?(?:\.\d+|(?<=\d)\.)?")


def numbers_equal(answer: str, reference: str) -> bool:
    """Exact numeric equality.

    ``23.0`` equals ``23``, ``1,000`` equals ``1000``. A hundredth or a hundredfold does not:
    accepting it, as percent rules do, marks wrong answers right.

    Args:
        answer: A number as written.
        reference: The reference's number as written.

    Returns:
        Whether they are the same number; False where one is no number.
    """
    first, second = parse_number(answer), parse_number(reference)
    return first is not None and first == second


def parse_number(text: str) -> Decimal | None:
    """Read a written number: a currency sign before it and grouping of thousands are let go.

    Returns:
        The exact value, or None where the text is no number.
    """
    cleaned = re.sub(r"^([-+]?)[$¥€£] ?", r"\1", text.strip().replace("−", "-"))
    if not re.search(r"\d", cleaned) or not _WRITTEN.fullmatch(cleaned):
        return None
    return Decimal(re.sub("[, ]", "", cleaned))


# Words of units beside a number, on one side only: "5 cm" is 5. Powers of units go with them.
_UNITS = (
    "degrees?|cm|mm|km|m|meters?|metres?|centimeters?|inch(?:es)?|in|feet|foot|ft|yards?|miles?|mph|"
    "units?|square|sq|cubic|cents?|dollars?|hours?|minutes?|seconds?|days?|weeks?|months?|years?|"
    "pounds?|ounces?|grams?|kg|liters?|gallons?|points?|people|students?|ways?"
)
_TEXT = r"\\(?:text|mbox|mathrm|textbf|textrm|mathbf|rm)"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Exports that escaped twice; in matrices a double backslash ends a row.
        (r"\\\\(?=[a-zA-Z])", r"\\"),
        (r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|limits)(?![a-zA-Z])\s*", ""),
        (r"\\(?:dfrac|tfrac|cfrac)(?![a-z])", r"\\frac"),
        (r"\\(?:[!,;: ]|quad|qquad)", " "),
        (r"\{,\}", ","),
        (r"\\(?:\$|pounds|euro)|^\$|\$$", ""),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°", ""),
        (r"\\?%", ""),
        (rf"(?<=[\d}})])\s*{_TEXT}\s*\{{\s*(?:{_UNITS}|\s|\.|,)+\}}(?:\^\{{?[23]\}}?)?", ""),
        (rf"(?<=[\d}})])\s*(?:(?<=\s)|(?<=[\d}}]))(?:{_UNITS})(?:\s+(?:{_UNITS}))*\.?$", ""),
        (rf"{_TEXT}\s*\{{([^{{}}]*)\}}", r"\1"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
        (r"(?<![\w.])(-?\d+)\s*/\s*(\d+)(?![\w.])", r"\\frac{\1}{\2}"),
        (r"\\frac\{-", r"-\\frac{"),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(?<!\d)\.(?=\d)", "0."),
        (r"\\(?:cdot|times)(?![a-zA-Z])", "*"),
        (r"\\(?:le|leqslant)(?![a-zA-Z])", r"\\leq"),
        (r"\\(?:ge|geqslant)(?![a-zA-Z])", r"\\geq"),
        (r"π", r"\\pi"),
        (r"−", "-"),
        (r"\.\s*$", ""),
    )
)
# "x = 5", "f(x) = 5", "x \\in (1, 2)" where the reference has the right side alone.
_NAMED = re.compile(r"^(?:[a-zA-Z]{1,2}|[a-zA-Z]\([a-zA-Z]\)|\\[a-z]+)(?:=|\\in(?![a-z]))")


def normalize_formula(text: str) -> str:
    r"""Bring a formula to the writing in which equal ones are mostly the same string.

    Sizes, spacing, text wrappers, currency and percent signs, degrees, and units behind a number
    are let go; fractions get one form. So ``10\%`` is ``10`` and not ``0.1``.

    Args:
        text: LaTeX or words, without the box around it.

    Returns:
        The text without spaces; words in lower case.
    """
    text = text.strip()
    rewrites = _REWRITES[1:] if "\\begin" in text else _REWRITES
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    text = "".join(text.split())
    return text.lower() if text.isalpha() else text


def formulas_equal(answer: str, reference: str) -> bool:
    """Whether two formulas are the same after normalization: as text, as number, or as a list.

    Lists without brackets are compared in any order; ``x=`` is let go where one side lacks it.

    Args:
        answer: As written by a model.
        reference: The right answer.

    Returns:
        Whether they are equal without algebra; ``grading.math`` asks further.
    """
    first, second = normalize_formula(answer), normalize_formula(reference)
    if not first or not second:
        return False
    if "=" not in second or "=" not in first:
        first, second = _NAMED.sub("", first), _NAMED.sub("", second)
    if first == second or numbers_equal(first, second):
        return True
    parts = [_split_list(text) for text in (first, second)]
    if len(parts[0]) < 2 or len(parts[0]) != len(parts[1]):
        return False
    return sorted(map(_number_key, parts[0])) == sorted(map(_number_key, parts[1]))


def _split_list(text: str) -> list[str]:
    """Parts of a list whose commas stand outside of all brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.removeprefix("and") for part in parts]


def _number_key(text: str) -> str:
    value = parse_number(text)
    return text if value is None else str(value.normalize())
