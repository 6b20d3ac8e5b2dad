import pytest

from posttrain.grading.answers import FoundAnswer
from posttrain.grading.choices import find_letter


@pytest.mark.parametrize(
    ("text", "letter", "parse"),
    [
        ("B", "B", "letter"),
        (" (B) ", "B", "letter"),
        ("**B**.", "B", "letter"),
        ("So it is \\boxed{C}", "C", "boxed"),
        ("\\boxed{\\text{(C) dogs}}", "C", "boxed"),
        ("The answer is D.", "D", "stated"),
        ("The correct answer is (C) because A is absurd.", "C", "stated"),
        ("First I thought the answer is A. No: the answer is B.", "B", "stated"),
        ("Cats purr.\n\nAnswer: **D**", "D", "stated"),
        ("The best option is B", "B", "stated"),
        ("答案是A", "A", "stated"),
        ("B. The wind", "B", "leading"),
        ("(D) The wind", "D", "leading"),
        ("C\nbecause cats purr", "C", "leading"),
        ("Answer: A, B is wrong", "A", "stated"),
        ("A. cats\nB. dogs\nC. birds\nD. fish\nAnswer: C", "C", "stated"),
        ("A. cats\nB. is no cat", "A", "leading"),
        ("Answer: (B) and not (A)", "B", "stated"),
        ("Answer: B, C, I am sure, is wrong. The answer is D", "D", "stated"),
        ("Answer: B or, in words, A dog", "B", "stated"),
    ],
)
def test_a_stated_choice_is_found(text, letter, parse):
    assert find_letter(text, "ABCD") == FoundAnswer(letter, parse)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A man walks in.",
        "I think so.",
        "The answer is A dog",
        "E",
        "b",
        "Plan B works",
        "\\boxed{7}",
        "Answer: A's",
        "ABCD",
    ],
)
def test_a_stray_capital_is_no_choice(text):
    assert find_letter(text, "ABCD") == FoundAnswer(None, "none")


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{A, B}",
        r"\boxed{\text{A or B}}",
        r"\boxed{A} or \boxed{B}",
        "Answer: A, B, C, D",
        "Answer: A, B and C",
        "The answer is (A) and (C).",
        "The answer is **A** or **B**.",
        "Answer: A & B",
        "Answer: A/B",
        "答案是A和B",
        "答案：A、B",
        "A. cats\nB. dogs\nC. birds\nD. fish",
        "(A) cats\n(B) dogs\n(C) birds\n(D) fish",
    ],
)
def test_who_names_several_has_chosen_none(text):
    assert find_letter(text, "ABCD").text is None
