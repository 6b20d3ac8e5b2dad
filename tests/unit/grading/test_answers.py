import json
from collections import Counter

import pytest

from posttrain.grading.answers import FoundAnswer, find_numeric_answer
from posttrain.grading.equivalence import numbers_equal

MARKED = [
    ("3 + 4 = 7\n#### 7", "7"),
    ("####7", "7"),
    ("#### 42.", "42"),
    ("#### $1,234", "1,234"),
    ("#### $1,234.50 per year", "1,234.50"),
    ("#### -5", "-5"),
    ("#### −5", "−5"),
    ("#### -$5", "-$5"),
    ("#### .5", ".5"),
    ("#### 5 apples", "5"),
    ("#### 5 apples and 3 pears", "5"),
    ("#### **72**", "72"),
    ("####\t1,000,000", "1,000,000"),
    ("#### 72. I hope it is correct", "72"),
    ("#### 10%", "10"),
    ("#### 1\nNo, again.\n#### 2", "2"),
    ("#### 1 #### 2", "2"),
    ("step 1: 99\n#### 7\nThis took 3 steps.", "7"),
    ("#### 1/2", "1/2"),
    ("#### 小明有 8 个", "8"),
]
UNMARKED = [
    ("72. I hope it is correct", "72"),
    ("A: $18", "18"),
    ("She has 3 apples, then 1,250.", "1,250"),
    ("<<16-7=9>>9 eggs, <<9*2=18>>18 dollars", "18"),
    ("from 3-4", "4"),
    ("20 - 5", "5"),
    ("it fell to -4", "-4"),
    ("it fell to -$4.50", "-$4.50"),
    ("f(x)-2", "2"),
    ("1,2,3", "3"),
    ("1234,567 things", "567"),
    ("### 6", "6"),
]


@pytest.mark.parametrize(("text", "number"), MARKED)
def test_the_number_after_the_last_marker_is_the_answer(text, number):
    assert find_numeric_answer(text) == FoundAnswer(number, "marker")


@pytest.mark.parametrize(("text", "number"), UNMARKED)
def test_without_a_marker_the_last_number_is_taken_and_told(text, number):
    assert find_numeric_answer(text) == FoundAnswer(number, "last_number")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"So \boxed{42}", "42"),
        (r"So \boxed{23.0}, in 3 steps.", "23.0"),
        (r"\boxed{1}, no: $\boxed{\$1{,}234 \text{ dollars}}$", "1,234"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ],
)
def test_the_number_in_the_last_box_is_the_answer(text, number):
    assert find_numeric_answer(text) == FoundAnswer(number, "boxed")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 72.", "72"),
        ("答案是 15。", "15"),
        ("Answer: 42\n(checked in 3 ways)", "42"),
        ("So 16 people.\nAnswer: 16 people, on horse #12", "16"),
        ("The final answer is $1,234.50. I hope it is correct in 2 places", "1,234.50"),
        ("The answer is 3 + 4 = 7 of the 12", "7"),
        ("Answer: 1\nNo.\nAnswer:\n-2", "-2"),
        ("**Answer:** 5 of 9", "5"),
    ],
)
def test_the_number_behind_the_last_statement_is_the_answer(text, number):
    assert find_numeric_answer(text) == FoundAnswer(number, "stated")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 7\nThe answer is 8", FoundAnswer("7", "marker")),
        (r"\boxed{7}, so the answer is 8", FoundAnswer("7", "boxed")),
        ("It is 7, the answer is clear", FoundAnswer("7", "last_number")),
    ],
)
def test_a_statement_counts_less_than_a_marker_and_more_than_nothing(text, found):
    assert find_numeric_answer(text) == found


@pytest.mark.parametrize(
    "text",
    ["", "no idea", "####", "72\n####", "72\n#### none", "5 apples\n####\n7", "#### 1\n####"],
)
def test_a_marker_without_number_and_a_text_without_number_give_none(text):
    assert find_numeric_answer(text) == FoundAnswer(None, "none")


def test_a_very_long_text_is_read_in_time():
    assert find_numeric_answer("1," * 200_000 + " 5").text == "5"


def test_every_gsm8k_reference_is_a_number_that_equals_itself(shared_data):
    lines = (shared_data / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        answer = json.loads(line)["answer"]
        reference = answer.rpartition("####")[2].strip()
        found = find_numeric_answer(answer)
        assert found.parse == "marker"
        assert numbers_equal(found.text, reference), line
    assert len(lines) == 1319


def test_verdicts_on_real_outputs_are_those_of_their_authors(shared_data):
    """Measured: 6,552 of 6,556; no wrong answer is taken for right."""
    path = shared_data / "grading" / "graded_outputs.jsonl"
    if not path.is_file():
        pytest.skip("no graded outputs beside the project")
    counts: Counter[tuple[bool, bool]] = Counter()
    for line in path.read_text(encoding="utf-8").split("\n"):
        row = json.loads(line) if line else {}
        if row.get("dataset") != "gsm8k" or row.get("ambiguous"):
            continue
        found = find_numeric_answer(row["prediction"])
        right = found.text is not None and numbers_equal(found.text, row["reference"])
        counts[right, row["expected"]] += 1
    assert sum(counts.values()) == 6556
    assert counts[True, True] + counts[False, False] >= 6552
    assert counts[True, False] == 0
