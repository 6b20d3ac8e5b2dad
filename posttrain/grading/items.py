"""Rules for multiple-choice school items that need no judge and no network.

An item is looked at in InceptBench's shape of content: ``question``, ``answer_options`` (a list of
``{key, text}``), ``answer``, ``answer_explanation`` and perhaps ``stimulus``. Every rule passes,
fails or does not apply, with a reason. Their names are their own (``rules.distinct_options``) and
there is no overall score: nobody shall average them with a judge's.

Source: what a good item is follows Haladyna, Downing and Rodriguez 2002, A review of
multiple-choice item-writing guidelines, Applied Measurement in Education 15(3); thresholds were
set so that published items pass (docs/items.md).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.grading.readability import estimate_grade, split_words
from posttrain.items import fold_option, is_blank

SOURCE = "offline_rules"
Content = dict[str, Any]
Verdict = tuple[bool | None, str]

# The right option gives itself away where it is this much longer than the next one; options are of
# unequal length where the longest is this much longer than the shortest.
_CUE_RATIO, _CUE_CHARACTERS = 1.5, 10
_UNEQUAL_RATIO, _UNEQUAL_CHARACTERS = 3.0, 30
_INLINE_PASSAGE_WORDS = 8
# Fewer words give no estimate worth a verdict; with so many, it still scatters by some grades.
_READABLE_WORDS = 25
_GRADE_MARGIN = 4.0
# Last grade of each band of the Common Core -> hardest Flesch-Kincaid level of its texts:
# Supplemental Information for Appendix A, 2012, table 1. There is none below grade 2.
_HARDEST = {3: 5.34, 5: 7.73, 8: 10.34, 10: 12.12, 12: 14.20}
_ALL_OR_NONE = re.compile(
    r"\b(?:all|none|any|both|neither)\s+(?:of\s+)?(?:the\s+)?(?:above|below|these|options|choices|"
    r"answers)\b|\b(?:both|neither)\s+\(?[A-Z]\)?\s+(?:and|nor)\s+\(?[A-Z]\)?",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n+")
_BLANK = re.compile(r"_{2,}|\[\s*blank\s*\]|\(\s{3,}\)", re.IGNORECASE)
_TASK = re.compile(
    r"\b(?:choose|select|pick|identify|find|complete|determine|name|decide|mark)\b", re.IGNORECASE
)
_REFERS = re.compile(
    r"\b(?:the|this|these|that|following|above)\s+(?:\w+\s+)?(?:passages?|excerpts?|poems?|"
    r"paragraphs?|stor(?:y|ies)|articles?|selections?|stanzas?|fables?|lyrics|dialogue|letter)\b"
    r"|\blines?\s+\d+",
    re.IGNORECASE,
)
_CLAIM = re.compile(
    r"\b(?i:option|choice|answer)\s+[\"'(]?([A-Z])\b[\"')]?(?:\s*\([^)]*\))?\s+is\s+"
    r"(?:the\s+)?(?:right|correct|best)|\b(?i:right|correct|best)\s+(?:option|choice|answer)\s+is\s+"
    r"[\"'(]?([A-Z])\b"
)


@dataclass(frozen=True)
class Finding:
    """What one rule says about one item."""

    rule: str
    """``rules.`` and the rule's name."""
    passed: bool | None
    """None where the rule does not apply."""
    reason: str
    """Why it fails or does not apply; empty where it passes."""


@dataclass(frozen=True)
class Expectations:
    """What an item was asked to be."""

    options: int = 4
    grades: tuple[int, int] | None = None
    """Lowest and highest school grade; None where nobody said."""
    english: bool = True


def parse_grade(text: str) -> tuple[int, int] | None:
    """Read a school grade such as ``K``, ``4`` or ``9-10``.

    Returns:
        Lowest and highest grade, 0 is kindergarten; None where it is none.
    """
    parts = [p.strip().upper() for p in re.split(r"[-–]", text.removeprefix("grade "))]
    grades = [0 if p in ("K", "KG") else int(p) if p.isdecimal() else 99 for p in parts]
    return (min(grades), max(grades)) if max(grades) <= 12 else None


def read_content(value: Any) -> tuple[Content, str]:
    """Bring an item into InceptBench's shape.

    Args:
        value: A mapping with InceptBench's names, with those a model writes (``options`` by key,
            ``explanation``), or with those of our sample data (``stem``).

    Returns:
        The content, with what is missing left empty, and what is wrong with its shape or nothing.
    """
    if not isinstance(value, Mapping):
        return _empty_content(), "not a JSON object"
    problems = []
    content = _empty_content()
    for name, others in (
        ("question", ("stem",)),
        ("answer", ()),
        ("answer_explanation", ("explanation",)),
        ("stimulus", ()),
    ):
        found = next((value[key] for key in (name, *others) if key in value), None)
        if isinstance(found, str):
            content[name] = found
        elif found is not None or name != "stimulus":
            problems.append(f"`{name}` is {'missing' if found is None else 'no text'}")
    options = value.get("answer_options", value.get("options"))
    if isinstance(options, Mapping):
        options = [{"key": key, "text": text} for key, text in options.items()]
    if isinstance(options, list) and all(_is_option(option) for option in options):
        content["answer_options"] = [{"key": o["key"], "text": o["text"]} for o in options]
    else:
        problems.append("`answer_options` is no list of {key, text}")
    return content, "; ".join(problems)


def parse_content(text: str) -> tuple[Content, str]:
    """Find the item in what a model wrote.

    JSON inside a code fence or prose is found too, so that the other rules can speak; that it does
    not stand alone is a problem of its own.

    Args:
        text: As written.

    Returns:
        The content as ``read_content`` gives it, and what is wrong or nothing.
    """
    try:
        return read_content(json.loads(text))
    except (ValueError, RecursionError):
        pass
    decoder, said = json.JSONDecoder(), text.rpartition("</think>")[2]
    for brace in re.finditer(r"\{", said):
        try:
            value, _ = decoder.raw_decode(said, brace.start())
        except (ValueError, RecursionError):
            continue
        content, problem = read_content(value)
        return content, "; ".join(filter(None, ["text around the JSON object", problem]))
    return _empty_content(), "no JSON object in the text"


def check_item(
    content: Content, expected: Expectations, *, format_problem: str = ""
) -> list[Finding]:
    """Apply every rule but the one about duplicates.

    Args:
        content: In InceptBench's shape, from ``read_content`` or ``parse_content``.
        expected: What was asked for.
        format_problem: What the reading found.

    Returns:
        One finding per rule, in their order.
    """
    findings = [Finding("rules.valid_format", not format_problem, format_problem)]
    for name, rule in _RULES.items():
        passed, reason = rule(content, expected)
        findings.append(Finding(f"rules.{name}", passed, reason))
    return findings


def find_duplicates(contents: Sequence[Content], *, similarity: float) -> list[Verdict]:
    """Find items that nearly repeat an earlier one of a batch.

    Question and options are compared together: a question such as "Which sentence has a simile?"
    may well be asked of other sentences, and a passage may have several questions.

    Args:
        contents: The batch.
        similarity: Share of common word triples, above 0, from which on two items are copies.

    Returns:
        One verdict per item; the first of several copies passes. A reason names the earlier
        item's position as ``#1`` and so on.

    Source:
        Jaccard similarity; candidates by prefix filtering, Chaudhuri, Ganti and Kaushik 2006,
        which misses no pair.
    """
    shingles = [_shingle(content) for content in contents]
    counts = Counter(one for item in shingles for one in item)
    seen: dict[tuple[str, ...], list[int]] = {}
    verdicts: list[Verdict] = []
    for index, item in enumerate(shingles):
        # Two sets this similar share one of so many of their rarest members.
        kept = len(item) - int(similarity * len(item) + 1 - 1e-9) + 1
        prefix = sorted(item, key=lambda one: (counts[one], one))[: max(0, kept)]
        verdict: Verdict = (True, "") if item else (None, "no text to compare")
        for other in sorted({i for one in prefix for i in seen.get(one, ())}):
            share = len(item & shingles[other]) / len(item | shingles[other])
            if share >= similarity:
                verdict = (False, f"{share:.0%} the same as item #{other + 1}")
                break
        for one in prefix:
            seen.setdefault(one, []).append(index)
        verdicts.append(verdict)
    return verdicts


def _empty_content() -> Content:
    return {
        "type": "mcq",
        "stimulus": "",
        "question": "",
        "answer_options": [],
        "answer": "",
        "answer_explanation": "",
    }


def _is_option(option: Any) -> bool:
    return isinstance(option, Mapping) and all(
        isinstance(option.get(name), str) for name in ("key", "text")
    )


def _texts(content: Content) -> list[str]:
    return [option["text"] for option in content["answer_options"]]


def _shingle(content: Content) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", " ".join([content["question"], *sorted(_texts(content))]).lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} if words else set()


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _check_question(content: Content, expected: Expectations) -> Verdict:
    present = not is_blank(content["question"])
    return present, "" if present else "there is no question"


def _check_count(content: Content, expected: Expectations) -> Verdict:
    count = len(content["answer_options"])
    right = count == expected.options
    return right, "" if right else f"{count} options, not {expected.options}"


def _check_filled(content: Content, expected: Expectations) -> Verdict:
    if not content["answer_options"]:
        return None, "no options"
    empty = [option["key"] for option in content["answer_options"] if is_blank(option["text"])]
    return not empty, f"option {empty[0]} is empty" if empty else ""


def _check_distinct(content: Content, expected: Expectations) -> Verdict:
    if len(content["answer_options"]) < 2:
        return None, "fewer than two options"
    seen: dict[str, str] = {}
    for option in content["answer_options"]:
        text = fold_option(option["text"])
        if text in seen:
            return False, f"options {seen[text]} and {option['key']} are the same"
        seen[text] = option["key"]
    keys = Counter(option["key"] for option in content["answer_options"])
    twice = next((key for key, count in keys.items() if count > 1), None)
    return twice is None, "" if twice is None else f"two options have the key {twice}"


def _check_answer(content: Content, expected: Expectations) -> Verdict:
    keys = [option["key"] for option in content["answer_options"]]
    if not content["answer"]:
        return False, "there is no answer"
    right = content["answer"] in keys
    return right, "" if right else f"the answer {content['answer'][:20]!r} is no option's key"


def _check_explanation(content: Content, expected: Expectations) -> Verdict:
    present = not is_blank(content["answer_explanation"])
    return present, "" if present else "there is no explanation"


def _check_claim(content: Content, expected: Expectations) -> Verdict:
    claims = {a or b for a, b in _CLAIM.findall(content["answer_explanation"])}
    if not claims:
        return None, "the explanation names no key"
    right = content["answer"] in claims
    named = " and ".join(sorted(claims))
    return right, "" if right else f"the explanation calls {named} right, not {content['answer']}"


def _check_lengths(content: Content, expected: Expectations) -> Verdict:
    lengths = sorted(len(text) for text in _texts(content))
    if len(lengths) < 2:
        return None, "fewer than two options"
    shortest, second, longest = lengths[0], lengths[-2], lengths[-1]
    answers = [o["text"] for o in content["answer_options"] if o["key"] == content["answer"]]
    stands_out = longest >= _CUE_RATIO * second and longest - second >= _CUE_CHARACTERS
    if stands_out and any(len(text) == longest for text in answers):
        return False, f"the answer is the longest option ({longest} characters, then {second})"
    if longest >= _UNEQUAL_RATIO * shortest and longest - shortest >= _UNEQUAL_CHARACTERS:
        return False, f"options have from {shortest} to {longest} characters"
    return True, ""


def _check_all_or_none(content: Content, expected: Expectations) -> Verdict:
    if not _texts(content):
        return None, "no options"
    found = next((t for t in _texts(content) if _ALL_OR_NONE.search(t) and len(t) < 60), None)
    return found is None, "" if found is None else f"an option says {found!r}"


def _check_asks(content: Content, expected: Expectations) -> Verdict:
    question = content["question"].strip()
    if is_blank(question):
        return None, "no question"
    # A stem may also be an unfinished sentence that the options complete.
    asks = "?" in question or "？" in question or not question.endswith((".", "!", "。"))
    asks = asks or bool(_BLANK.search(question) or _TASK.search(question))
    return asks, "" if asks else "no question, blank, task or unfinished sentence"


def _check_repeats(content: Content, expected: Expectations) -> Verdict:
    stem = _plain(re.split(r"\n\s*\n", content["question"].strip())[-1])
    if len(stem.split()) < 4 or not _texts(content):
        return None, "too short a question to be repeated"
    found = next((o["key"] for o in content["answer_options"] if stem in _plain(o["text"])), None)
    return found is None, "" if found is None else f"option {found} repeats the question"


def _check_stimulus(content: Content, expected: Expectations) -> Verdict:
    # A sentence with a gap is itself what is worked on.
    parts = [p for p in _SENTENCE.split(content["question"]) if not _BLANK.search(p)]
    referring = next(filter(None, map(_REFERS.search, parts)), None)
    if not referring:
        return None, "the question refers to no passage"
    if not is_blank(content["stimulus"]):
        return True, ""
    # The passage may stand in the question itself: sentences that neither ask nor refer.
    rest = [p for p in parts if not p.endswith("?") and not _REFERS.search(p)]
    inline = len(re.findall(r"\w+", " ".join(rest))) >= _INLINE_PASSAGE_WORDS
    return inline, "" if inline else f"there is no passage, but the question says {referring[0]!r}"


def _check_reading_level(content: Content, expected: Expectations) -> Verdict:
    text = f"{content['stimulus']}\n\n{content['question']}"
    words = len(split_words(text))
    if expected.grades is None or not expected.english:
        return None, "no grade to compare with" if expected.english else "not English"
    highest = expected.grades[1]
    if highest < 2:
        return None, "the Common Core gives no level below grade 2"
    if words < _READABLE_WORDS:
        return None, f"{words} words are too few for an estimate"
    level = estimate_grade(text)
    limit = next(top for grade, top in _HARDEST.items() if highest <= grade) + _GRADE_MARGIN
    # There is no lower limit: the dialogue of a novel for grade 11 reads like grade 5.
    right = level <= limit
    return right, "" if right else f"reads like grade {level:.1f}, above {limit:.1f}"


_RULES: dict[str, Callable[[Content, Expectations], Verdict]] = {
    "question_present": _check_question,
    "option_count": _check_count,
    "options_filled": _check_filled,
    "distinct_options": _check_distinct,
    "answer_in_options": _check_answer,
    "explanation_present": _check_explanation,
    "explanation_agrees": _check_claim,
    "option_lengths": _check_lengths,
    "no_all_or_none": _check_all_or_none,
    "asks_something": _check_asks,
    "options_differ_from_question": _check_repeats,
    "stimulus_present": _check_stimulus,
    "reading_level": _check_reading_level,
}

RULE_NAMES = ("rules.valid_format", *(f"rules.{name}" for name in _RULES), "rules.no_duplicate")
"""Every rule's name, in the order in which the first failing one becomes an item's error class."""
