r"""Compare answers by their shape: lists, tuples, intervals, matrices, equations, bases, values.

All texts here are normalized. A comparison gives True or False where it is sure, and None where it
takes algebra.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from posttrain.grading.expressions import (
    compare_expressions,
    compare_ratio,
    read_expression,
)
from posttrain.grading.numbers import numbers_equal

_NAME = r"(?:[a-zA-Z]|\\[a-z]+)(?:_(?:\w|\{\w+\}))?'*(?:\([a-zA-Z]\))?"
# "x", "f(x)", "(x,y)", "V_1:V_2": what may stand before "=" and be left out.
_NAMES = re.compile(rf"{_NAME}(?::{_NAME})*|[a-zA-Z]{{2}}|\({_NAME}(?:,{_NAME})+\)")
_FUNCTION = re.compile(r"y|[a-zA-Z]\([a-zA-Z]\)")
_MEMBER = re.compile(rf"^{_NAME}\\in(?![a-z])")
_ABOUT = re.compile(r"\\approx|\\simeq|≈")
_RELATION = re.compile(r"\\leq|\\geq|\\neq|[<>=]")
_MATRIX = re.compile(
    r"\\begin\{([pbB]?matrix|array)\}(?:\{[clr|]*\})?((?:(?!\\begin).)*)\\end\{\1\}", re.S
)
_BASE = re.compile(r"(\d[0-9A-Z]*)_(?:(\d)|\{(\d+)\})")
# Three letters may be a product. Of two numbers with a space between nothing is made.
_NO_FORMULA = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{4,}|~")
_DECIMAL = re.compile(r"-?(\d+\.\d+)")
_CONJUNCTION = re.compile(
    r"(?<![a-zA-Z\\])(?:and|or)(?![a-z])|(?<=[\d)}])(?:and|or)(?=[-\d(\\a-zA-Z])"
)
_MIRRORED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}
_BRACKETS = {"(": ")]", "[": ")]", "\\{": ("\\}",), "{": "}", r"\langle": (r"\rangle",)}
_MOST_PARTS = 12
# Digits, from the first that is not 0, that a decimal needs to stand for the value that it rounds.
_ROUNDED_DIGITS = 6
_NOISE = Fraction(1, 10**12)


def compare_lists(answer: str, reference: str) -> bool | None:
    """Compare answers of one or several parts.

    Parts without brackets around them, and those of a set, may stand in any order; what ``±``
    stands for is written out. A part alone is not the whole.
    """
    parts = [_spread(text) for text in (answer, reference)]
    tuples = [_open(side[0]) if len(side) == 1 else None for side in parts]
    for side, other in ((0, 1), (1, 0)):
        whole = tuples[other]
        if len(parts[side]) < 2 or len(parts[other]) != 1:
            continue
        if "\\cup" in parts[other][0]:
            # "x<3 or x>5" is a union.
            parts[other] = parts[other][0].split("\\cup")
        elif whole and whole[0] == "(":
            # "1,2" may leave out the brackets of (1,2), and then its order counts.
            parts[other] = whole[1]
            return _match_in_order(*parts)
    return _match_parts(*parts)


def _spread(text: str) -> list[str]:
    """Part a list or a set; write out what ± stands for."""
    found: list[str] = []
    groups = split_outside(text, ";")
    if len(groups) > 1 and "," in text and all("=" in group for group in groups):
        # "p=5,q=2;p=7,q=2" are two pairs.
        values = [[v.rpartition("=")[2] for v in split_outside(g, ",")] for g in groups]
        return [f"({','.join(group)})" for group in values]
    for one in (part for piece in split_outside(text, ",;") for part in _CONJUNCTION.split(piece)):
        inner = _open(one)
        if inner and inner[0] in ("\\{", "{") and one == text:
            return _spread(",".join(inner[1])) or [one]
        if "\\pm" in one and "\\mp" not in one:
            found += [one.replace("\\pm", "+"), one.replace("\\pm", "-")]
        elif one:
            found.append(one)
    return found


def split_outside(text: str, signs: str) -> list[str]:
    """Part a text at signs that stand outside of all brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character in signs and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _match_parts(answers: Sequence[str], references: Sequence[str]) -> bool | None:
    """Find a partner for each part."""
    if len(answers) != len(references):
        return False
    if len(answers) > _MOST_PARTS:
        return sorted(answers) == sorted(references)
    left = list(references)
    verdict: bool | None = True
    for answer in answers:
        verdicts = [compare_parts(answer, one) for one in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            verdict = None
        else:
            return False
    return verdict


def _match_in_order(answers: Sequence[str], references: Sequence[str]) -> bool | None:
    if len(answers) != len(references):
        return False
    verdicts = [compare_parts(a, b) for a, b in zip(answers, references, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def compare_parts(answer: str, reference: str) -> bool | None:
    """Compare one part of an answer with one of the reference."""
    if answer == reference or numbers_equal(answer, reference):
        return True
    answer, reference = _drop_rounding(answer), _drop_rounding(reference)
    if bool(_MEMBER.match(answer)) != bool(_MEMBER.match(reference)):
        answer, reference = _MEMBER.sub("", answer), _MEMBER.sub("", reference)
    related = [_RELATION.search(text) is not None for text in (answer, reference)]
    if any(related):
        return (_compare_relations if all(related) else _compare_one_relation)(answer, reference)
    if "\\cup" in answer + reference:
        return _match_parts(answer.split("\\cup"), reference.split("\\cup"))
    tables = [_MATRIX.fullmatch(_unwrap(text)) for text in (answer, reference)]
    if tables[0] and tables[1]:
        return _compare_tables(tables[0][2], tables[1][2])
    opened = [_open(text) for text in (answer, reference)]
    if opened[0] and opened[1]:
        return _compare_brackets(opened[0], opened[1])
    if any(opened) and read_expression(answer if opened[1] else reference):
        return False  # a tuple and a number
    bases = [_BASE.fullmatch(text) for text in (answer, reference)]
    if any(bases):
        return _compare_bases(answer, reference)
    if answer.count(":") == 1 or reference.count(":") == 1:
        answer, reference = answer.replace(":", "/"), reference.replace(":", "/")
    found = compare_values(answer, reference)
    if found is None and "\\begin" not in answer + reference:
        return False if any(map(_NO_FORMULA.search, (answer, reference))) else None
    return found


def _drop_rounding(text: str) -> str:
    r"""Take "\frac13" of "\frac13\approx0.333"; what "x\approx11" says is 11."""
    before, sign, after = (_ABOUT.sub("\\\\approx", text, count=1)).partition("\\approx")
    if not sign:
        return text
    return after if not before or _NAMES.fullmatch(before) else before


def _unwrap(text: str) -> str:
    return text[1:-1] if text[:1] in ("(", "[") and text[-1:] in (")", "]") else text


def _open(text: str) -> tuple[str, list[str], str] | None:
    """Opening bracket, parts and closing bracket of a tuple, interval or set."""
    opening = next((one for one in _BRACKETS if text.startswith(one)), None)
    if opening is None:
        return None
    closing = next((one for one in _BRACKETS[opening] if text.endswith(one)), None)
    inner = text[len(opening) : -len(closing)] if closing else ""
    if not inner or not _balanced(inner):
        return None
    parts = split_outside(inner, ",;")
    return (opening, parts, closing or "") if len(parts) > 1 or opening == "\\{" else None


def _balanced(text: str) -> bool:
    """Whether no bracket is closed that was not opened; "(1,2)+(3,4)" is no tuple."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _compare_brackets(
    answer: tuple[str, list[str], str], reference: tuple[str, list[str], str]
) -> bool | None:
    if answer[0] in ("\\{", "{") and reference[0] in ("\\{", "{"):
        return _match_parts(answer[1], reference[1])
    if (answer[0], answer[2]) == (reference[0], reference[2]):
        return _match_in_order(answer[1], reference[1])
    # An open end is not a closed one; other brackets may mean the same.
    straight = {answer[0], reference[0]} <= {"(", "["}
    return False if straight else None


def _compare_tables(answer: str, reference: str) -> bool | None:
    rows = [
        [row.split("&") for row in text.replace("\\hline", "").split("\\\\") if row.strip()]
        for text in (answer, reference)
    ]
    if list(map(len, rows[0])) != list(map(len, rows[1])):
        return False
    cells = [[cell for row in table for cell in row] for table in rows]
    return _match_in_order(*cells)


def _compare_bases(answer: str, reference: str) -> bool | None:
    """Compare numbers of a base; one side may leave it out."""
    digits, bases = [], []
    for text in (answer, reference):
        found = _BASE.fullmatch(text)
        digits.append(found[1] if found else text)
        bases.append(found[2] or found[3] if found else None)
    if all(bases) and bases[0] != bases[1]:
        return False
    return digits[0].lstrip("0") == digits[1].lstrip("0")


def _sides(text: str) -> tuple[list[str], list[str]]:
    """Sides and signs of a relation, written so that it ascends."""
    sides, signs = _RELATION.split(text), _RELATION.findall(text)
    if signs[0] in (">", "\\geq"):
        return sides[::-1], [_MIRRORED.get(sign, sign) for sign in reversed(signs)]
    return sides, signs


def _compare_one_relation(answer: str, reference: str) -> bool | None:
    """Compare "x=5" with "5", and "3<x" with an interval."""
    is_answer = _RELATION.search(answer) is not None
    sides, signs = _sides(answer if is_answer else reference)
    if set(signs) == {"="}:
        if is_answer or _NAMES.fullmatch(sides[0]):
            # A model may write the whole equation, "a+d=2k"; of a reference only a name is dropped.
            value = sides[-1]
            if _NAMES.fullmatch(value) and value != reference:
                value = sides[0]  # "5=x"
        elif _NAMES.fullmatch(sides[-1]):
            value = sides[0]
        else:
            return False
        return compare_parts(*((value, reference) if is_answer else (answer, value)))
    interval = _to_interval(sides, signs)
    other = reference if is_answer else answer
    if interval and (_open(other) or "\\cup" in other):
        return compare_parts(interval, other)
    return False if interval else None


def _to_interval(sides: list[str], signs: list[str]) -> str | None:
    r"""Write "3<x\leq4" as "(3,4]"."""
    if not set(signs) <= {"<", "\\leq"}:
        return None
    brackets = [["(", ")"] if sign == "<" else ["[", "]"] for sign in signs]
    if len(sides) == 3 and _NAMES.fullmatch(sides[1]):
        return f"{brackets[0][0]}{sides[0]},{sides[2]}{brackets[1][1]}"
    if len(sides) == 2 and _NAMES.fullmatch(sides[0]):
        return f"(-\\infty,{sides[1]}{brackets[0][1]}"
    if len(sides) == 2 and _NAMES.fullmatch(sides[1]):
        return f"{brackets[0][0]}{sides[0]},\\infty)"
    return None


def _compare_relations(answer: str, reference: str) -> bool | None:
    (first, signs), (second, others) = _sides(answer), _sides(reference)
    if set(signs) == set(others) == {"="}:
        names = first[0], second[0]
        both_named = all(map(_FUNCTION.fullmatch, names))
        if names[0] == names[1] or both_named:
            return compare_parts(first[-1], second[-1])
    if signs != others:
        return False if len(signs) == len(others) else None
    if len(signs) > 1:
        return _match_in_order(first, second)
    differences = [read_expression(f"({a})-({b})") for a, b in (first, second)]
    if differences[0] is None or differences[1] is None:
        return None
    directed = signs[0] in ("<", "\\leq")
    return compare_ratio(differences[0], differences[1], positive=directed)


def compare_values(answer: str, reference: str) -> bool | None:
    """Compare two expressions by value; a decimal may round the other side's value."""
    first, second = read_expression(answer), read_expression(reference)
    if first is None or second is None:
        return None
    found = compare_expressions(first, second)
    if found is not True and not first.names and not second.names:
        values = first.at({}), second.at({})
        for text, value, exact in ((answer, *values), (reference, *values[::-1])):
            if value is not None and exact is not None and _rounds(text, value, exact):
                return True
    return found


def _rounds(text: str, value: object, exact: object) -> bool:
    """Whether a plain decimal is another value but for its last digit, or for float noise."""
    written = _DECIMAL.fullmatch(text)
    if not written or not isinstance(value, Fraction):
        return False
    if isinstance(exact, complex):
        if exact.imag:
            return False
        exact = Fraction(exact.real)
    assert isinstance(exact, Fraction)
    distance = abs(value - exact)
    if distance <= _NOISE * abs(exact):
        return True
    digits = written[1].replace(".", "").lstrip("0")
    places = len(written[1].partition(".")[2])
    return len(digits) >= _ROUNDED_DIGITS and distance < Fraction(1, 10**places)
