"""A fixed choice of a task's problems, by their contents: the same ones whatever their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from posttrain.evaluation.perplexity import Document
from posttrain.evaluation.problems import Problem
from posttrain.files import digest_json

Part = TypeVar("Part", Problem, Document)


def choose_subset(problems: Sequence[Part], most: int | None, seed: int) -> list[Part]:
    """Choose problems; one that is added to the file takes the place of one at most.

    Args:
        problems: All of them.
        most: How many to choose; all where None.
        seed: Of the choice.

    Returns:
        The chosen ones, in the order of ``problems``.
    """
    if most is None or most >= len(problems):
        return list(problems)
    drawn = [
        hashlib.sha256(f"{seed} {digest_problem(problem)}".encode()).digest()
        for problem in problems
    ]
    order = sorted(range(len(problems)), key=lambda number: (drawn[number], number))
    return [problems[number] for number in sorted(order[:most])]


def digest_problem(problem: Problem | Document) -> str:
    """Digest what is asked and what is right, wherever it stands."""
    if isinstance(problem, Document):
        return digest_json(problem.text)
    choice = problem.choice and (problem.choice.question, problem.choice.options)
    return digest_json(
        [problem.messages, problem.reference, problem.tools, problem.expected, choice]
    )


def digest_subset(problems: Sequence[Problem | Document]) -> str:
    """Digest a choice of problems."""
    return digest_json([digest_problem(problem) for problem in problems])
