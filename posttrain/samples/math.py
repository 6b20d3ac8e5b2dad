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
_PATIENCE = 1000


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
        template, numbers, problem = _new_problem(rng, seen)
        seen.add(problem)
        words = _english_scene(rng) if template.language == "en" else _chinese_scene(rng)
        yield {
            "question": template.question.format(**words, **numbers),
            "answer": _write_answer(template, words, numbers),
            "problem": problem,
        }


def _new_problem(rng: random.Random, seen: set[str]) -> tuple[Template, dict[str, int], str]:
    """Draws a template and numbers that have not been drawn before."""
    for _ in range(_PATIENCE):
        template = rng.choice(TEMPLATES)
        numbers = _draw_numbers(rng, template)
        problem = f"{template.name}:{','.join(map(str, numbers.values()))}"
        if problem not in seen:
            return template, numbers, problem
    raise ValueError(f"only about {len(seen)} different problems exist; ask for fewer")


def _draw_numbers(rng: random.Random, template: Template) -> dict[str, int]:
    """Draws numbers until every step of the solution works out."""
    while True:
        numbers = {name: rng.randint(*limits) for name, limits in template.ranges.items()}
        if _results(template, numbers) is not None:
            return numbers


def _results(template: Template, numbers: dict[str, int]) -> list[int] | None:
    """Computes the results of the steps, or None if one of them does not work out."""
    known = dict(numbers)
    results: list[int] = []
    for step in _STEP.finditer(template.answer):
        result = _compute(known[step["left"]], step["sign"], known[step["right"]])
        if result is None:
            return None
        known[step["name"] or "="] = result
        results.append(result)
    return results


def _compute(left: int, sign: str, right: int) -> int | None:
    """Computes one step; None unless pupils could: a table fact, or a sum up to 99."""
    if sign == "×":
        return left * right if max(left, right) <= 9 else None
    if sign == "÷":
        quotient, rest = divmod(left, right)
        return quotient if rest == 0 and 2 <= quotient <= 9 else None
    result = left + right if sign == "+" else left - right
    return result if 2 <= result <= LARGEST else None


def _write_answer(template: Template, words: dict[str, str], numbers: dict[str, int]) -> str:
    """Writes the solution's steps with their numbers and results, then the final answer."""
    known = dict(numbers)
    final = 0

    def write_step(step: re.Match[str]) -> str:
        nonlocal final
        left, right = known[step["left"]], known[step["right"]]
        final = _compute(left, step["sign"], right) or 0
        known[step["name"] or "="] = final
        return f"{left} {step['sign']} {right} = {final}"

    text = _STEP.sub(write_step, template.answer).format(**words, **numbers)
    return f"{text}\n#### {final}"


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
