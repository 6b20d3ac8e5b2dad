import pytest

from posttrain.config.evaluation import (
    TASK_KINDS,
    ChoiceTask,
    ExactTask,
    FormulaTask,
    NumberTask,
    ToolCallTask,
)
from posttrain.evaluation.grade import open_grader
from posttrain.grading.verdicts import Reference

TOOL = {
    "name": "f",
    "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
}
EXPECTED = {"calls": [{"name": "f", "arguments": {"a": 1}}], "possible": None}


def task(kind=NumberTask, **settings):
    kinds = {settings: name for name, settings in TASK_KINDS.items()}
    return kind(kind=kinds[kind], data={"path": "x.jsonl"}, **settings)


def grade(kind, text, *, finished=True, reference=None, settings=None):
    references = {
        ChoiceTask: Reference("B", letters="AB"),
        ExactTask: Reference("Blue Whale"),
        ToolCallTask: Reference("f(a=1)", "", (TOOL,), EXPECTED),
    }
    with open_grader(task(kind, **(settings or {}))) as grader:
        return grader(reference or references.get(kind, Reference("72")), text, finished)


@pytest.mark.parametrize(
    ("kind", "text", "finished", "answer", "error"),
    [
        (NumberTask, "70 + 2 = 72\n#### 72", True, "72", None),
        (NumberTask, r"So it is \boxed{72.0}.", True, "72.0", None),
        (NumberTask, "#### 7", True, "7", "wrong"),
        (NumberTask, "no idea", True, None, "no_answer"),
        (NumberTask, "#### 7", False, "7", "truncated"),
        (FormulaTask, r"Hence $\boxed{\frac{144}{2}}$", True, r"\frac{144}{2}", None),
        (FormulaTask, r"\boxed{71}", True, "71", "wrong"),
        (FormulaTask, "no idea at all", True, None, "no_answer"),
        (FormulaTask, "so $70 + 2 = 72", False, None, "truncated"),
        (ChoiceTask, "The answer is B.", True, "B", None),
        (ChoiceTask, "A", True, "A", "wrong"),
        (ChoiceTask, "A man, a plan", True, None, "no_answer"),
        (ChoiceTask, "Well, a man", False, None, "truncated"),
        (ExactTask, "So the answer is blue whale.", True, "blue whale.", None),
        (ExactTask, "Blue  Whale", True, "Blue  Whale", None),
        (ExactTask, r"\boxed{Red Whale}", True, "Red Whale", "wrong"),
        (ExactTask, "One line.\nAnd another.", True, None, "no_answer"),
        (ToolCallTask, '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>', True,
         "f(a=1)", None),
        (ToolCallTask, "f(a=2)", True, "f(a=2)", "wrong_value"),
        (ToolCallTask, "I cannot.", True, None, "no_call"),
        (ToolCallTask, "<tool_call>{", True, None, "unparsable"),
        (ToolCallTask, '<tool_call>{"name', False, None, "truncated"),
    ],
)  # fmt: skip
def test_every_answer_gets_an_error_class(kind, text, finished, answer, error):
    verdict = grade(kind, text, finished=finished)
    assert (verdict.answer, verdict.error) == (answer, error)


def test_where_no_call_is_expected_any_call_is_wrong():
    none = Reference("", "", (TOOL,), {"calls": [], "possible": None})
    assert grade(ToolCallTask, "It is noon.", reference=none).error is None
    assert grade(ToolCallTask, "f(a=1)", reference=none).error == "unexpected_call"
    assert grade(ToolCallTask, "<tool_call>{", reference=none).error == "unexpected_call"


def test_an_own_pattern_finds_the_answer():
    settings = {"answer_pattern": r"=> (\d+)"}
    found = grade(NumberTask, "=> 3, no, => 72. 99", settings=settings)
    assert (found.answer, found.parse, found.strict) == ("72", "pattern", True)
    assert grade(NumberTask, "#### 72", settings=settings).error == "no_answer"


def test_what_goes_wrong_in_grading_costs_one_answer_and_leaves_it_unscored():
    settings = {"answer_pattern": r"(a|aa)+$", "grader_seconds": 0.05}
    with open_grader(task(NumberTask, **settings)) as grader:
        found = grader(Reference("72"), "a" * 60 + "b", True)
        assert (found.correct, found.strict, found.error) == (None, None, "grader_timeout")
        assert grader(Reference("72"), "b", True).error == "no_answer"
    broken = Reference("f(a=1)", "", (TOOL,), None)  # what no row of ours can be
    found = grade(ToolCallTask, "f(a=1)", reference=broken)
    assert (found.correct, found.error) == (None, "grader_error")


def test_only_answers_in_the_form_asked_for_are_strictly_right():
    assert grade(NumberTask, "#### 72").strict
    loose = grade(NumberTask, "that makes 72")
    assert (loose.correct, loose.strict) == (True, False)
