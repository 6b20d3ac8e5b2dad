"""What all multiple-choice questions share.

A question, a skill, first names and the stem of a question about a sentence with a gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Question:
    """A question before its options have keys; three of the wrong options are drawn."""

    stem: str
    right: str
    wrong: tuple[str, ...]
    why: str
    difficulty: str = "medium"


@dataclass(frozen=True)
class Skill:
    """What is tested, under which standard (without its common prefix), and how to ask it."""

    name: str
    code: str
    description: str
    ask: Callable[[Random], Question]

    @property
    def standard(self) -> str:
        """The full code, in the upper-case form with a dot before the letter."""
        return f"CCSS.ELA-LITERACY.{self.code}"

    @property
    def grade(self) -> str:
        """The grade, read from the code."""
        return self.code.split(".")[1]


NAMES = ("Mia", "Ben", "Ava", "Leo", "Nora", "Omar", "Ruby", "Sam", "Tara", "Wei")


def blank(sentence: str, ask: str = "Which choice correctly completes the sentence?") -> str:
    """The stem of a question about a sentence with a gap."""
    return f"{ask}\n\n{sentence}"
