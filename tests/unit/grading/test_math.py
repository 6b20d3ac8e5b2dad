"""Formulas judged in a process of its own."""

import json
import time

import pytest

from posttrain.grading.answers import FoundAnswer, find_boxes, find_math_answer
from posttrain.grading.equivalence import formulas_equal
from posttrain.grading.math import FormulaGrader


@pytest.fixture(scope="module")
def grader():
    pytest.importorskip("math_verify")
    with FormulaGrader(20) as made:
        yield made


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
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2) \cup (3, \infty)", "last_expression"),
        ("Evelyn", "Evelyn", "last_expression"),
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
    ("first", "second"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        ("1/2", r"\frac{1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"10\%", "10"),
        (r"90^\circ", "90"),
        (r"5 \text{ cm}^2", "5"),
        ("65 cubic units", "65"),
        (r"\$32,\!348", "32348"),
        ("1{,}000", "1000"),
        ("x=5", "5"),
        ("1,-2", "-2, 1"),
        (r"\text{Evelyn}", "evelyn"),
        ("23.0", "23"),
        (r"\sqrt3", r"\sqrt{3}"),
    ],
)
def test_two_writings_of_one_answer_are_equal_without_algebra(first, second):
    assert formulas_equal(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"10\%", "0.1"),
        ("1,2", "1,2,3"),
        ("(1,-2)", "(-2,1)"),
        ("", ""),
        ("x", "y"),
        ("1/2", "1/3"),
        ("0.5", "50"),
    ],
)
def test_other_answers_are_not_equal(first, second):
    assert not formulas_equal(first, second)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("0.25", r"\frac{1}{4}"),
        (r"3 < x \le 4", "(3,4]"),
        (
            r"\begin{pmatrix} 1/5 \\ 2 \end{pmatrix}",
            r"\begin{pmatrix} 0.2 \\ 2 \end{pmatrix}",
        ),
    ],
)
def test_algebra_finds_equal_formulas(grader, answer, reference):
    assert grader.judge(answer, reference) == "equal"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("x^2", "x^3"), (r"\frac{1}{3}", "0.33"), ("1", "1,2"), (r"\{1,2\}", "1"), ("}{", "2"),
     ("x" * 10_000, "1")],
)  # fmt: skip
def test_algebra_accepts_no_other_formula(grader, answer, reference):
    assert grader.judge(answer, reference) == "different"


def test_code_in_an_answer_is_data(grader, tmp_path):
    trace = tmp_path / "trace"
    for text in (
        f"__import__('pathlib').Path({str(trace)!r}).touch() or 0",
        f"eval(\"open({str(trace)!r}, 'w')\")",
        f"\\text{{__import__('os').system('touch {trace}')}}",
    ):
        assert grader.judge(text, "0") == "different"
    assert not trace.exists()


def test_a_comparison_that_hangs_costs_itself_alone():
    pytest.importorskip("math_verify")
    with FormulaGrader(1.5) as grader:
        assert grader.judge(r"\frac{2}{8}", r"\sqrt{\frac{1}{16}}") == "equal"
        started = time.perf_counter()
        assert grader.judge("9^{9^{9^{9}}}", "5") == "timeout"
        assert time.perf_counter() - started < 60
        assert grader.judge(r"\frac{2}{8}", r"\sqrt{\frac{1}{16}}") == "equal"


def test_no_worker_is_started_for_what_needs_no_algebra():
    pytest.importorskip("math_verify")
    with FormulaGrader() as grader:
        assert grader.judge("1/2", r"\frac12") == "equal"
        assert grader._worker is None


@pytest.mark.slow
def test_verdicts_on_real_outputs_are_those_of_their_sources(shared_data, grader):
    """Measured: 99.5 % of 1,668 agree."""
    path = shared_data / "grading" / "graded_outputs.jsonl"
    if not path.is_file():
        pytest.skip("no graded outputs beside the project")
    agreed = total = 0
    for line in path.read_text(encoding="utf-8").split("\n"):
        row = json.loads(line) if line else {}
        if row.get("dataset") != "math" or row.get("ambiguous"):
            continue
        found = find_math_answer(row["prediction"]).text
        right = found is not None and grader.judge(found, row["reference"]) == "equal"
        agreed += right == row["expected"]
        total += 1
    assert agreed / total >= 0.99
