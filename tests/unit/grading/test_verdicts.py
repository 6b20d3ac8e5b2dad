"""One path from a completion to its verdict."""

import time

import pytest

from posttrain.grading.verdicts import Grader, Reference, Verdict

CALLS = Reference(
    "f(a=1)", expected={"calls": [{"name": "f", "arguments": {"a": 1}}], "possible": None}
)
NO_CALL = Reference("", expected={"calls": [], "possible": None})


@pytest.mark.parametrize(
    ("name", "text", "key", "verdict"),
    [
        ("number", "6 * 7 = 42\n#### 42", "42", Verdict("42", "marker", True, True, None)),
        ("number", "42", "42", Verdict("42", "bare", True, True, None)),
        ("number", "It is 42 then.", "42", Verdict("42", "last_number", True, False, None)),
        ("number", "The answer is 41.", "42", Verdict("41", "stated", False, False, "wrong")),
        ("number", "It is 41 then.", "42", Verdict("41", "last_number", False, False, "format")),
        ("number", "", "42", Verdict(None, "none", False, False, "no_answer")),
        ("number", r"\boxed{\frac{84}{2}}", "42",
         Verdict(r"\frac{84}{2}", "boxed", True, True, None)),
        ("number", r"\boxed{41 \text{ or } 42}", "42",
         Verdict(r"41 \text{ or } 42", "boxed", False, False, "wrong")),
        ("number", "#### 1/2", "0.5", Verdict("1/2", "marker", True, True, None)),
        ("answer", r"\boxed{0.5}", r"\frac12", Verdict("0.5", "boxed", True, True, None)),
        ("answer", "thus $x^2$ and so on it goes", r"\frac12",
         Verdict("x^2", "last_expression", False, False, "format")),
        ("answer", r"so $\boxed{x=3}$ or $\boxed{x=4}$", "3",
         Verdict("4", "boxed", False, False, "wrong")),
        ("answer", "odd $n$", "odd $n$", Verdict("odd $n$", "bare", True, True, None)),
        ("answer", "<think>#### 1</think>#### 42", "42",
         Verdict("42", "marker", True, True, None)),
        ("answer", "<think>It is 42.\n#### 42</think>", "42",
         Verdict("42", "marker", True, True, None)),
        ("answer", "<think>It is 42.\n#### 42", "42",
         Verdict(None, "none", False, False, "no_answer")),
        ("letter", "The answer is B.", Reference("B", "AB"),
         Verdict("B", "stated", True, True, None)),
        ("letter", "A", Reference("B", "AB"), Verdict("A", "letter", False, False, "wrong")),
        ("words", "So the answer is Blue  Whale", "Blue Whale",
         Verdict("Blue  Whale", "stated", True, True, None)),
        ("words", "Red Whale", "Blue Whale", Verdict("Red Whale", "bare", False, False, "wrong")),
        ("words", "One line.\nAnd another.", "x", Verdict(None, "none", False, False, "no_answer")),
        ("calls", '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>', CALLS,
         Verdict("f(a=1)", "tag", True, True, None)),
        ("calls", "f(a=1)", CALLS, Verdict("f(a=1)", "python", True, True, None)),
        ("calls", "It is noon.", NO_CALL, Verdict(None, "none", True, True, None)),
        ("calls", "It is noon.", CALLS, Verdict(None, "none", False, False, "no_call")),
    ],
)  # fmt: skip
def test_verdicts_strict_and_flexible(name, text, key, verdict):
    with Grader(name) as grader:
        found = grader.grade(key if isinstance(key, Reference) else Reference(key), text)
    assert found == verdict


@pytest.mark.parametrize(
    ("name", "text", "key", "answer", "error"),
    [
        ("number", "so 42", "42", None, "truncated"),
        ("number", "4", "4", None, "truncated"),
        ("number", "#### 41", "42", "41", "truncated"),
        ("number", "#### 42", "42", "42", None),
        ("answer", "so $70 + 2 = 72", r"\frac12", None, "truncated"),
        ("answer", r"$\boxed{\frac12}$, and", r"\frac12", r"\frac12", None),
        ("letter", "B", Reference("B", "AB"), "B", None),
        ("calls", "f(a=2)", CALLS, "f(a=2)", "truncated"),
    ],
)
def test_the_last_thing_before_a_cut_is_no_answer(name, text, key, answer, error):
    with Grader(name) as grader:
        key = key if isinstance(key, Reference) else Reference(key)
        found = grader.grade(key, text, False)
    assert (found.answer, found.error, found.correct) == (answer, error, error is None)


def test_algebra_is_asked_where_a_formula_needs_it():
    pytest.importorskip("math_verify")
    key = Reference(r"Hence it is $\boxed{1}$.")
    with Grader("formula", 20) as grader:
        assert grader.grade(key, r"\boxed{\int_0^1 2x dx}").correct
    assert not Grader("answer").grade(key, r"\boxed{\int_0^1 2x dx}").correct


def test_a_grader_that_hangs_costs_that_answer_alone():
    pytest.importorskip("math_verify")
    with Grader("formula", 1.0) as grader:
        started = time.perf_counter()
        hung = grader.grade(Reference("5"), r"\boxed{9^{9^{9^{9}}}}")
        assert (hung.correct, hung.strict, hung.error) == (None, None, "grader_timeout")
        assert time.perf_counter() - started < 60
        assert grader.grade(Reference("5"), r"\boxed{5}").correct


HOSTILE = [
    "__import__('os').system('touch marker') or 0",
    "9**9**9**9",
    "{" * 100_000,
    r"\boxed{" * 100_000 + "}" * 100_000,
    r"\boxed{" + "x+" * 500_000 + "}",
    "\x00" * 1000 + "#### \x00",
    "\ud800 \\boxed{\udfff}",
    "\u202e\\boxed{7}",
    "#### " + "9" * 100_000,
]


@pytest.mark.parametrize("name", ["number", "answer", "formula", "letter", "calls"])
def test_hostile_answers_are_graded_as_data_and_in_time(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "formula":
        pytest.importorskip("math_verify")
    key = Reference(r"\frac{7}{3}", "ABCD", expected=CALLS.expected)
    with Grader(name, 2.0) as grader:
        for text in HOSTILE:
            started = time.perf_counter()
            assert not grader.grade(key, text).correct
            assert time.perf_counter() - started < 70, text[:40]
    assert not list(tmp_path.iterdir())
