import json

import pytest

from posttrain.config.evaluation import Gsm8kTask, MathTask, McqTask, ToolCallTask
from posttrain.config.model import ModelConfig
from posttrain.data.records import Origin
from posttrain.errors import DataError
from posttrain.evaluation.answers import ask, encode_problems, open_grader
from posttrain.evaluation.problems import Choice, Problem
from posttrain.evaluation.tasks import check_task, load_task_model, run_task
from posttrain.files import write_jsonl
from posttrain.generation.generator import Completion
from posttrain.samples import GENERATORS

CHOICE = Choice("", "Which?", ("x", "y"), 1)
TOOL = {
    "name": "f",
    "parameters": {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
}


def problem(reference="72", **more):
    prompt = {"role": "user", "content": "How many?"}
    return Problem(Origin("data/test.jsonl", 12), (prompt,), reference, **more)


def task(kind=Gsm8kTask, **settings):
    names = {Gsm8kTask: "gsm8k", MathTask: "math", McqTask: "mcq", ToolCallTask: "tool_calls"}
    return kind(task=names[kind], data={"path": "x.jsonl"}, **settings)


def grade(kind, text, *, finished=True, **settings):
    extra = {}
    if kind is McqTask:
        extra = {"reference": "B", "choice": CHOICE}
    if kind is ToolCallTask:
        calls = [{"name": "f", "arguments": {"a": 1}}]
        extra = {"tools": (TOOL,), "expected": {"calls": calls, "possible": None}}
    with open_grader(task(kind)) as grader:
        return grader(problem(**{**extra, **settings}), Completion(text, 5, finished))


@pytest.mark.parametrize(
    ("kind", "text", "finished", "answer", "error"),
    [
        (Gsm8kTask, "70 + 2 = 72\n#### 72", True, "72", None),
        (Gsm8kTask, r"So it is \boxed{72.0}.", True, "72.0", None),
        (Gsm8kTask, "#### 7", True, "7", "wrong_value"),
        (Gsm8kTask, "no idea", True, None, "no_answer"),
        (Gsm8kTask, "#### 7", False, "7", "unfinished"),
        (MathTask, r"Hence $\boxed{\frac{144}{2}}$", True, r"\frac{144}{2}", None),
        (MathTask, r"\boxed{71}", True, "71", "wrong_value"),
        (MathTask, "no idea at all", True, None, "no_answer"),
        (MathTask, "so $70 + 2 = 72", False, None, "unfinished"),
        (McqTask, "The answer is B.", True, "B", None),
        (McqTask, "A", True, "A", "wrong_value"),
        (McqTask, "A man, a plan", True, None, "no_answer"),
        (McqTask, "Well, a man", False, None, "unfinished"),
        (ToolCallTask, '<tool_call>{"name":"f","arguments":{"a":1}}</tool_call>', True,
         "f(a=1)", None),
        (ToolCallTask, "f(a=2)", True, "f(a=2)", "wrong_value"),
        (ToolCallTask, "I cannot.", True, None, "no_call"),
        (ToolCallTask, "<tool_call>{", True, None, "unparsable"),
        (ToolCallTask, '<tool_call>{"name', False, None, "unfinished"),
    ],
)  # fmt: skip
def test_every_answer_gets_an_error_class(kind, text, finished, answer, error):
    verdict = grade(kind, text, finished=finished)
    assert (verdict.answer, verdict.error) == (answer, error)


def test_where_no_call_is_expected_any_call_is_wrong():
    none = {"calls": [], "possible": None}
    assert grade(ToolCallTask, "It is noon.", expected=none).error is None
    assert grade(ToolCallTask, "f(a=1)", expected=none).error == "unexpected_call"
    assert grade(ToolCallTask, "<tool_call>{", expected=none).error == "unexpected_call"


@pytest.mark.parametrize(
    ("kind", "cot", "below"),
    [
        (Gsm8kTask, None, ""),
        (Gsm8kTask, False, "\nGive only the final answer."),
        (
            MathTask,
            True,
            "\nPlease reason step by step, and put your final answer within \\boxed{}.",
        ),
        (McqTask, None, "\nAnswer with the letter of the right option."),
    ],
)
def test_cot_settles_what_is_asked_below_the_problem(kind, cot, below):
    (message,) = ask(task(kind, cot=cot), problem())
    assert message["content"] == "How many?" + below


def test_a_system_turn_replaces_the_one_of_the_row():
    row = Problem(
        Origin("a", 1),
        ({"role": "system", "content": "old"}, {"role": "user", "content": "?"}),
        "1",
    )
    found = ask(task(system="new"), row)
    assert [m["content"] for m in found] == ["new", "?"]
    assert row.messages[0]["content"] == "old"


def test_a_template_that_refuses_a_problem_is_one_line(tiny_tokenizer):
    template = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = "{{ raise_exception('only system turns') }}"
    try:
        with pytest.raises(DataError, match=r"test\.jsonl:12: the template refuses.*only system"):
            encode_problems([problem()], [[{"role": "user", "content": "?"}]], tiny_tokenizer)
    finally:
        tiny_tokenizer.chat_template = template


def test_results_are_derived_from_the_records(tmp_path, tiny_tokenizer):
    path = tmp_path / "problems.jsonl"
    write_jsonl(path, GENERATORS["math"](6, 2))
    settings = Gsm8kTask(task="gsm8k", data={"path": path}, max_new_tokens=6, batch_size=4)
    check_task(settings, tiny_tokenizer)
    model = load_task_model(ModelConfig(path="tiny"), "generate", dtype="float32", device="cpu")
    results = run_task(settings, model, tiny_tokenizer, tmp_path / "out", model_name="tiny")
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["id"] for record in records] == [f"problems.jsonl:{n}" for n in range(1, 7)]
    assert results["problems"] == 6
    assert results["correct"] == sum(record["correct"] for record in records)
    assert (results["metric"], results["value"]) == ("accuracy", results["accuracy"])
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
