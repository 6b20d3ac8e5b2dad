import json
import time

import pytest

from posttrain.grading.answers import (
    FoundAnswer,
    find_boxes,
    find_math_answer,
    find_numeric_answer,
    read_reference,
)
from posttrain.grading.choices import find_letter
from posttrain.grading.numbers import numbers_equal
from posttrain.grading.rewards import grade_answer

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


@pytest.mark.parametrize("text", ["72", " $72$.", "**72**", "$72", "72%\n"])
def test_a_number_that_is_the_whole_text_stands_bare(text):
    assert find_numeric_answer(text) == FoundAnswer("72", "bare")


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
        (r"\boxed{3 + 4 = 7}", "7"),
        (r"\boxed{3 + 4}", "3 + 4"),
        (r"\boxed{81a - 9b + 8}", "81a - 9b + 8"),
        (r"\boxed{3 \text{ and } 4}", r"3 \text{ and } 4"),
        (r"\boxed{7 \text{ apples}}", "7"),
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
        ("**Answer**: 5 of 9", "5"),
        ("### 4\n**Final Answer:**\n\n5 of 9", "5"),
    ],
)
def test_the_number_behind_the_last_statement_is_the_answer(text, number):
    assert find_numeric_answer(text) == FoundAnswer(number, "stated")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 7\nThe answer is 8", FoundAnswer("7", "marker")),
        (r"\boxed{7}, so the answer is 8", FoundAnswer("7", "boxed")),
        ("#### Step 2: add\n\\boxed{7}", FoundAnswer("7", "boxed")),
        ("\\boxed{8}\n#### 7", FoundAnswer("7", "marker")),
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


@pytest.mark.parametrize(
    ("text", "answer", "parse"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}", "boxed"),
        (r"\boxed{1}, wait: \boxed{2}", "2", "boxed"),
        (r"$x=\boxed{1}$ and $x = \boxed{2}$", "1, 2", "boxed"),
        (r"\boxed 7 apples", "7", "boxed"),
        (r"\boxed{3} is wrong. Final Answer: The final answer is $4$. I hope it is correct.",
         "4", "stated"),
        ("Final Answer: The final answer is 65 cubic units. I hope it is correct.",
         "65 cubic units", "stated"),
        (r"The answer is \(\sqrt{2}\) metres.", r"\sqrt{2}", "stated"),
        ("答案是 $3$。", "3", "stated"),
        ("2 + 2\n#### 4", "4", "marker"),
        ("Thus $x = 3$, and then $y = 5$ follows.", "y = 5", "last_expression"),
        ("We get three and later 14 for it all.", "14", "last_expression"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2) \cup (3, \infty)", "bare"),
        ("Final Answer: The largest $n$ is 34.", "34", "stated"),
        (r"\boxed{(2, 2)} \quad \text{and} \quad \boxed{(6, 2)}", "(2, 2), (6, 2)", "boxed"),
        (r"\($y_1 = \boxed{x} \) and \( y_2 = \boxed{2x} \)", "x, 2x", "boxed"),
        (r"\boxed{10} and then \boxed{42}", "42", "boxed"),
        (r"It costs \$5, so \[ x = 3 \] it is", "x = 3", "last_expression"),
        ("**Final Answer**\n\n**Answer:**\n$x = 3$ in 2 ways", "x = 3", "stated"),
        ("Evelyn", "Evelyn", "bare"),
    ],
)  # fmt: skip
def test_the_final_formula_is_found(text, answer, parse):
    assert find_math_answer(text) == FoundAnswer(answer, parse)


@pytest.mark.parametrize("text", ["", "I do not know the answer to this.", "\\boxed{"])
def test_a_text_without_answer_gives_none(text):
    assert find_math_answer(text).text in (None, "\\boxed{")


def test_boxes_balance_their_braces_and_are_read_in_time():
    assert find_boxes(r"\boxed{a\{b{c}} \boxed{x \fbox{7}")[0][2] == r"a\{b{c}"
    assert [box[2] for box in find_boxes(r"\boxed{x \fbox{7}")] == ["7"]
    started = time.perf_counter()
    assert find_boxes(r"\boxed{" * 20_000) == []
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("$9$", "9"),
        ("$125$ miles", "125"),
        ("$1$ and $2$ and $3$", "1, 2, 3"),
        (r"Hence it is $\boxed{20}$ percent.", "20"),
        (r"\(\boxed{1}\) and \(\boxed{-2}\).", "1, -2"),
        ("odd $n$", "odd $n$"),
        (r"\frac12", r"\frac12"),
    ],
)
def test_a_reference_is_read_out_of_its_frame(reference, answer):
    assert read_reference(reference) == answer


HOSTILE = {
    "braces": "{" * 500_000,
    "boxes": r"\boxed{" * 140_000,
    "boxes in a row": r"\boxed{1}, " * 90_000,
    "boxes far apart": (r"\boxed{1}" + " " * 5000) * 190,
    "openers": r"\[" * 500_000,
    "closers": r"\(" + r"\]" * 400_000,
    "dollars": "$" * 1_000_001,
    "groups": "111" + ",111" * 249_999 + "1",
    "digits": "1" * 1_000_000,
    "slashes": "1/" * 500_000,
    "spaces": "the answer is" + " " * 1_000_000 + "x",
    "blanks": "Answer: 5" + " " * 1_000_000 + "x",
    "lines": "answer" + "\n" * 1_000_000,
    "statements": "answer is " * 100_000,
    "hope": "Answer: 5" + ". " * 500_000 + "I hop",
    "letters": "answer is " + "*" * 1_000_000 + "A",
    "choice": "B" + "* " * 500_000 + "x",
    "text": r"\boxed{" + r"\text{" * 160_000 + "}",
    "markers": "#### " * 200_000,
    "null bytes": "\x00" * 1_000_000,
    "surrogates": "\ud800" * 1_000_000,
    "thoughts": "<think>" * 140_000,
    "code": "__import__('os').system('true') or " * 30_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "find",
    [find_numeric_answer, find_math_answer, read_reference, lambda text: find_letter(text, "ABCD")],
    ids=["number", "formula", "reference", "letter"],
)
def test_a_million_hostile_characters_are_searched_in_time(find, name):
    started = time.process_time()
    find(HOSTILE[name])
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("#### 12 or 13", "12 or 13"),
        ("#### $12, $13", "12, $13"),
        ("#### 2^10", "2^10"),
        ("The answer is 12 and 13.", "12 and 13"),
        ("The answer is 12, and 13 are left over", "12"),
        ("#### 1,200", "1,200"),
    ],
)
def test_several_numbers_are_one_answer_of_which_no_part_counts(text, found):
    assert find_numeric_answer(text).text == found
    assert grade_answer(text, "12") == (found == "12", True)
