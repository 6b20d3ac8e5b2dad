"""Sample multiple-choice items for English language arts, grades 2 to 8, written for this project.

One row is one item::

    {"standard": "CCSS.ELA-LITERACY.L.4.1.A", "standard_description": "...", "grade": "4",
     "skill": "relative pronouns", "difficulty": "easy|medium|hard", "stem": "...",
     "options": [{"key": "A", "text": "..."}, ...], "answer": "B", "explanation": "..."}

Four options, all different, exactly one right. Skills and answer keys come in shuffled blocks, so
both are balanced in any run of rows. The codes are those of the Common Core; the descriptions are
our own short wording.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TypeVar

from posttrain.samples.mcq_grammar import (
    ask_agreement,
    ask_capitals,
    ask_conjunction,
    ask_coordinate,
    ask_irregular_verb,
    ask_possessive,
    ask_pronoun_case,
    ask_relative,
    ask_series,
    ask_simple_tense,
    ask_voice,
)
from posttrain.samples.mcq_questions import Question, Skill
from posttrain.samples.mcq_words import (
    ask_antonym,
    ask_confused,
    ask_figure,
    ask_main_idea,
    ask_plural,
    ask_prefix,
    ask_synonym,
)

_Value = TypeVar("_Value")

KEYS = ("A", "B", "C", "D")

# Draws after which a repeated question is let through, so that any number of rows can be made.
_FRESH_TRIES = 40

SKILLS = (
    Skill("irregular past tense", "L.2.1.D", "Past forms of common irregular verbs.",
          ask_irregular_verb),
    Skill("prefixes", "L.2.4.B", "Working out a word from its prefix and base.", ask_prefix),
    Skill("plural nouns", "L.3.1.B", "Forming plurals, regular and irregular.", ask_plural),
    Skill("simple verb tenses", "L.3.1.E", "Past, present, and future in their simple forms.",
          ask_simple_tense),
    Skill("subject-verb agreement", "L.3.1.F", "Making verbs and pronouns agree.",
          ask_agreement),
    Skill("conjunctions", "L.3.1.H", "Joining ideas with conjunctions.", ask_conjunction),
    Skill("possessives", "L.3.2.D", "Showing who owns something.", ask_possessive),
    Skill("main idea", "RI.3.2", "Finding the main idea and the details behind it.",
          ask_main_idea),
    Skill("relative pronouns and adverbs", "L.4.1.A", "Linking clauses with words such as who, "
          "whose, which, and where.", ask_relative),
    Skill("homophones", "L.4.1.G", "Telling apart words that are often mixed up.",
          ask_confused),
    Skill("capitalization", "L.4.2.A", "Using capital letters.", ask_capitals),
    Skill("synonyms", "L.4.5.C", "Knowing words through their synonyms and opposites.",
          ask_synonym),
    Skill("commas in a series", "L.5.2.A", "Punctuating a list of items.", ask_series),
    Skill("similes and metaphors", "L.5.5.A", "Understanding comparisons in figurative language.",
          ask_figure),
    Skill("antonyms", "L.5.5.C", "Using word relationships to understand words better.",
          ask_antonym),
    Skill("pronoun case", "L.6.1.A", "Subject, object, and possessive pronouns.",
          ask_pronoun_case),
    Skill("coordinate adjectives", "L.7.2.A", "Commas between adjectives of equal rank.",
          ask_coordinate),
    Skill("active and passive voice", "L.8.1.B", "Forming and recognizing both voices.",
          ask_voice),
)  # fmt: skip


def _shuffled_blocks(values: tuple[_Value, ...], rng: Random) -> Iterator[_Value]:
    while True:
        yield from rng.sample(values, len(values))


def _row(skill: Skill, question: Question, key: str, rng: Random) -> dict[str, object]:
    texts = rng.sample(question.wrong, 3)
    texts.insert(KEYS.index(key), question.right)
    return {
        "standard": skill.standard,
        "standard_description": skill.description,
        "grade": skill.grade,
        "skill": skill.name,
        "difficulty": question.difficulty,
        "stem": question.stem,
        "options": [{"key": k, "text": text} for k, text in zip(KEYS, texts, strict=True)],
        "answer": key,
        "explanation": f'Option {key} ("{question.right}") is right. {question.why}',
    }


def generate_mcq(num: int, seed: int) -> Iterator[dict[str, object]]:
    """Makes multiple-choice items; no question comes twice until its skill runs out of new ones.

    Args:
        num: Number of rows.
        seed: The same seed gives the same rows, and the first rows do not depend on ``num``.

    Yields:
        One item, in the shape given at the top of this module.
    """
    rng = Random(seed)
    skills, keys = _shuffled_blocks(SKILLS, rng), _shuffled_blocks(KEYS, rng)
    seen: set[tuple[str, str]] = set()
    for _ in range(num):
        skill = next(skills)
        for _ in range(_FRESH_TRIES):
            question = skill.ask(rng)
            if (question.stem, question.right) not in seen:
                break
        seen.add((question.stem, question.right))
        yield _row(skill, question, next(keys), rng)
