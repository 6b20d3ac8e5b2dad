"""Synthetic grade-school word problems in GSM8K's format, in English and Chinese.

Every row is ``{"question", "answer", "problem"}``. ``answer`` is the reasoning, computed step by
step from the numbers, then ``#### `` and the final number. ``problem`` names the template and the
numbers, so rows that differ only in people and things count as the same problem.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from posttrain.samples.math_templates import (
    CHINESE_PEOPLE,
    CHINESE_THINGS,
    ENGLISH_PEOPLE,
    ENGLISH_THINGS,
    TEMPLATES,
    Template,
)

__all__ = ["TEMPLATES", "Template", "generate_math"]

LARGEST = 99
"""No number of any problem is larger than this."""

_STEP = re.compile(r"\[(?:(?P<name>\w) = )?(?P<left>\w) (?P<sign>[-+×÷]) (?P<right>\w)\]")
_PATIENCE = 1000  # draws in a row that are not new before the problems count as used up


def generate_math(num: int, seed: int) -> Iterator[dict[str, str]]:
    """Yields word problems, no two of them with the same template and numbers.

    Args:
        num: How many problems to make.
        seed: Seed of the random choices; the same seed gives the same problems.

    Yields:
        Rows with the keys ``question``, ``answer`` and ``problem``.

    Raises:
        ValueError: If there are too few different problems to make ``num`` of them.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    for _ in range(num):
        template, numbers, equations = _draw_new(rng, seen)
        words = _english_scene(rng) if template.language == "en" else _chinese_scene(rng)
        reasoning = _fill_in(template.answer, equations).format(**words, **numbers)
        final = equations[-1].rsplit(" ", 1)[-1]
        yield {
            "question": template.question.format(**words, **numbers),
            "answer": f"{reasoning}\n#### {final}",
            "problem": _identity(template, numbers),
        }


def _draw_new(rng: random.Random, seen: set[str]) -> tuple[Template, dict[str, int], list[str]]:
    """Draws a template with numbers that are not in ``seen``, and adds them to it."""
    for _ in range(_PATIENCE):
        template = rng.choice(TEMPLATES)
        numbers, equations = _draw_numbers(rng, template)
        problem = _identity(template, numbers)
        if problem not in seen:
            seen.add(problem)
            return template, numbers, equations
    raise ValueError(f"only about {len(seen)} different problems exist; ask for fewer")


def _identity(template: Template, numbers: dict[str, int]) -> str:
    """Names a problem by its template and numbers, whoever and whatever it is about."""
    return f"{template.name}:{','.join(map(str, numbers.values()))}"


def _draw_numbers(rng: random.Random, template: Template) -> tuple[dict[str, int], list[str]]:
    """Draws numbers until every step works out; returns them with the written steps."""
    while True:
        numbers = {name: rng.randint(*limits) for name, limits in template.ranges.items()}
        equations = _solve(template, numbers)
        if equations is not None:
            return numbers, equations


def _solve(template: Template, numbers: dict[str, int]) -> list[str] | None:
    """Writes the steps, such as ``6 × 7 = 42``, or returns None if one does not work out."""
    known = dict(numbers)
    equations: list[str] = []
    for step in _STEP.finditer(template.answer):
        left, right = known[step["left"]], known[step["right"]]
        result = _compute(left, step["sign"], right)
        if result is None:
            return None
        if step["name"]:
            known[step["name"]] = result
        equations.append(f"{left} {step['sign']} {right} = {result}")
    return equations


def _fill_in(answer: str, equations: list[str]) -> str:
    """Puts the written steps in the places of the bracketed ones."""
    remaining = iter(equations)
    return _STEP.sub(lambda _: next(remaining), answer)


def _compute(left: int, sign: str, right: int) -> int | None:
    """Computes one step; None unless it is in the multiplication table or within ``LARGEST``."""
    if sign == "×":
        return left * right if max(left, right) <= 9 else None
    if sign == "÷":
        quotient, rest = divmod(left, right)
        return quotient if rest == 0 and 2 <= quotient <= 9 else None
    result = left + right if sign == "+" else left - right
    return result if 2 <= result <= LARGEST else None


def _english_scene(rng: random.Random) -> dict[str, str]:
    """Picks two people and the things they have."""
    (name, he), (friend, _) = rng.sample(ENGLISH_PEOPLE, 2)
    things = rng.choice(ENGLISH_THINGS)
    return {"name": name, "friend": friend, "he": he, "He": he.capitalize(), "things": things}


def _chinese_scene(rng: random.Random) -> dict[str, str]:
    """Picks two people and the things they have, with the measure word."""
    name, friend = rng.sample(CHINESE_PEOPLE, 2)
    unit, thing = rng.choice(CHINESE_THINGS)
    return {"name": name, "friend": friend, "unit": unit, "thing": thing}
