import json

import pytest
from transformers import AutoModelForCausalLM

from posttrain.config.evaluation import TaskConfig
from posttrain.data.records import Chat, Origin, Record
from posttrain.errors import DataError
from posttrain.evaluation.math import encode_problems, evaluate_math, grade, load_problems
from posttrain.files import load_json, write_jsonl
from posttrain.generation.greedy import Completion
from posttrain.models.tiny import ensure_tiny
from posttrain.samples.math import generate_math


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "problems.jsonl"
    write_jsonl(path, generate_math(6, seed=3))
    settings = {"task": "gsm8k", "data": {"path": str(path)}, "max_new_tokens": 8, "batch_size": 4}
    return TaskConfig.model_validate(settings)


def problem(reference="7"):
    chat = Chat(
        ({"role": "user", "content": "3 + 4?"}, {"role": "assistant", "content": "."}),
        reference=reference,
    )
    return Record(chat, Origin("/data/gsm8k/test.jsonl", 12))


@pytest.mark.parametrize(
    ("text", "finished", "correct", "error", "parse"),
    [
        ("#### 7", True, True, None, "marker"),
        ("It is 7.0", True, True, None, "last_number"),
        ("#### 7", False, True, None, "marker"),
        ("#### 8", True, False, "wrong value", "marker"),
        ("#### 700", True, False, "wrong value", "marker"),
        ("seven", True, False, "no answer", "none"),
        ("3 + 4 = 3 + ", False, False, "unfinished", "last_number"),
        ("", False, False, "unfinished", "none"),
    ],
)
def test_an_answer_gets_verdict_and_error_class(text, finished, correct, error, parse):
    found = grade(problem(), Completion(text, 5, finished))
    assert (found.correct, found.error, found.parse) == (correct, error, parse)
    assert found.id == "test.jsonl:12"
    assert found.prompt == [{"role": "user", "content": "3 + 4?"}]
    assert (found.completion, found.reference, found.completion_tokens) == (text, "7", 5)


def test_an_evaluation_leaves_a_record_per_problem_and_its_summary(task, tiny_tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(ensure_tiny("tiny")).eval()
    results = evaluate_math(task, model, tiny_tokenizer, tmp_path / "out", model_name="tiny")
    assert load_json(tmp_path / "out" / "results.json") == results
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["id"] for record in records] == [f"problems.jsonl:{n}" for n in range(1, 7)]
    assert results["problems"] == 6
    assert results["correct"] == sum(record["correct"] for record in records)


def test_a_problem_without_reference_is_refused_by_name(task, tmp_path):
    path = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    write_jsonl(path, [{"messages": messages}])
    other = task.model_copy(update={"data": task.data.model_copy(update={"path": path})})
    with pytest.raises(DataError, match=r"chats\.jsonl:1: no reference answer"):
        load_problems(other)


def test_an_unusable_problem_stops_the_evaluation(task):
    with task.data.path.open("a") as file:
        file.write('{"question": "no final answer?", "answer": "none"}\n')
    with pytest.raises(DataError, match=r"problems\.jsonl:7: .*1 problems are unusable"):
        load_problems(task)


def test_a_template_that_refuses_a_problem_is_one_line(tiny_tokenizer):
    template = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = "{{ raise_exception('only system turns') }}"
    try:
        with pytest.raises(DataError, match=r"test\.jsonl:12: the template refuses.*only system"):
            encode_problems([problem()], tiny_tokenizer)
    finally:
        tiny_tokenizer.chat_template = template
