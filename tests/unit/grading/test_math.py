"""Formulas judged in a process of its own."""

import os
import signal
import time

import pytest

from posttrain.grading.math import FormulaGrader


@pytest.fixture(scope="module")
def grader():
    pytest.importorskip("math_verify")
    with FormulaGrader(20) as made:
        yield made


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\int_0^1 2x dx", "1"),
        (r"\sum_{k=1}^{4} k", "10"),
        (
            r"\begin{pmatrix}1 & 0\\0 & 1\end{pmatrix}\begin{pmatrix}2\\3\end{pmatrix}",
            r"\begin{pmatrix}2\\3\end{pmatrix}",
        ),
        (r"|x|^2", "x^2"),
    ],
    ids=str,
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
        assert grader.judge(r"\int_0^1 2x dx", "1") == "equal"
        started = time.perf_counter()
        assert grader.judge("9^{9^{9^{9}}}", "5") == "timeout"
        assert time.perf_counter() - started < 60
        started = time.perf_counter()
        assert grader.judge("9^{9^{9^{9}}}", "5") == "timeout"
        assert time.perf_counter() - started < 1, "what hangs costs its time once"
        assert grader.judge(r"\int_0^1 2x dx", "2") == "different"


def test_a_process_that_dies_costs_its_comparison_alone():
    pytest.importorskip("math_verify")
    with FormulaGrader(20) as grader:
        assert grader.judge(r"\int_0^1 2x dx", "1") == "equal"
        os.kill(grader._worker._process.pid, signal.SIGKILL)
        assert grader.judge(r"\int_0^1 2x dx", "3") == "error"
        assert grader.judge(r"\int_0^1 2x dx", "2") == "different"


def test_no_worker_is_started_for_what_needs_no_algebra():
    pytest.importorskip("math_verify")
    with FormulaGrader() as grader:
        assert grader.judge("1/2", r"\frac12") == "equal"
        assert grader.judge("1/2", r"\frac13") == "different"
        assert (grader.asked, grader._worker) == (0, None)
