"""Find the letter that a model has chosen, by strict patterns: a stray capital is no choice."""

from __future__ import annotations

import re

from posttrain.grading.answers import FoundAnswer, find_boxes, join_parts

# Bounded, as all repeats here: what is open to the end of a text is searched again and again.
_DECORATION = r"[\s*_`\"'“”]{0,20}"
# "The answer is A dog" chooses nothing.
_NO_ARTICLE = r"(?!(?<=\sA)\s+(?!because|since|as|and|for|which|with)[a-z])"

# Between the letters of "A or B" and "A, B": who names several has chosen none. Behind a comma a
# sentence may begin: "A, B is wrong".
_JOINT = r"\)?[\s*_`]{0,20}(?:,?\s{0,20}(?:and|or)(?![a-zA-Z])|[&/+、和或及与])"
_COMMA = r"\)?[\s*_`]{0,20}[,;，；]"


def find_letter(completion: str, letters: str) -> FoundAnswer:
    r"""Find the chosen letter.

    Args:
        completion: What the model wrote.
        letters: The letters of the options, such as ``ABCD``.

    Returns:
        The letter with its parse status. ``letter``: it is the whole text; ``boxed``: in the last
        ``\boxed{}``; ``stated``: behind the last "answer is", "Answer:" or the like; ``leading``:
        the text starts with the letter as a label, as in "B. The wind"; ``none``: no letter, or
        several.
    """
    one = f"[{re.escape(letters)}]"
    another = rf"[\s*_`]{{0,20}}\(?{one}(?![A-Za-z0-9'’])"
    only = rf"(?!{_JOINT}{another}{_NO_ARTICLE}|{_COMMA}{another}\)?(?!\s+(?!and\b|or\b)[a-z]))"
    label = rf"\(?(?P<letter>{one})(?![A-Za-z0-9'’]){only}"
    text = completion.strip()
    if found := re.fullmatch(rf"{_DECORATION}{label}{_DECORATION}[).:]{{0,5}}{_DECORATION}", text):
        return FoundAnswer(found["letter"], "letter")
    if boxes := find_boxes(text):
        content = join_parts(text, boxes)
        content = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", content)
        found = re.match(rf"\s*{label}", content)
        return FoundAnswer(found["letter"], "boxed") if found else FoundAnswer(None, "none")
    stated = re.compile(
        r"(?i:(?:answer|choice|option)\b[^.\n]{0,30}?\s(?:is|would be)\s{0,20}:?|"
        r"answer\s{0,20}[:：]|答案(?:是|为|选|[:：])|选)(?i:\s{0,20}(?:option|choice))?"
        rf"{_DECORATION}{label}{_NO_ARTICLE}"
    )
    if matches := list(stated.finditer(text)):
        return FoundAnswer(matches[-1]["letter"], "stated")
    # Who copies the list of options has chosen none of them.
    labels = re.findall(rf"^{_DECORATION}\(?({one})\)?{_DECORATION}[.):]", text, re.M)
    if len(letters) > 1 and labels[: len(letters)] == list(letters):
        return FoundAnswer(None, "none")
    if found := re.match(
        rf"{_DECORATION}\(?(?P<letter>{one})\)?{_DECORATION}(?:[.):]|$)", text, re.M
    ):
        return FoundAnswer(found["letter"], "leading")
    return FoundAnswer(None, "none")
