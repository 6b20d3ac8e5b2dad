import json

from posttrain.config.evaluation import NumberTask
from posttrain.config.model import ModelConfig
from posttrain.evaluation.answers import run_answers
from posttrain.evaluation.tasks import check_task, load_task_model, run_task
from posttrain.files import load_jsonl, write_jsonl
from posttrain.generation.generator import Completion
from posttrain.samples import GENERATORS


def test_results_are_derived_from_the_records(tmp_path, tiny_tokenizer):
    path = tmp_path / "problems.jsonl"
    write_jsonl(path, GENERATORS["math"](6, 2))
    settings = NumberTask(kind="number", data={"path": path}, max_new_tokens=6, batch_size=4)
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


class Writer:
    """Answers every problem but those that it fails at, the last one first."""

    def __init__(self, failing=()):
        self.failing = set(failing)
        self.seen = []

    def generate(self, requests, options):
        for number in reversed(range(len(requests))):
            request = requests[number]
            self.seen.append((request.messages[-1]["content"], request.seed, options))
            if number in self.failing:
                yield number, Completion("", 0, False, failure="no answer in time")
            else:
                yield number, Completion(f"#### {number}", 3, True, seconds=0.5)

    def close(self):
        pass


def test_what_could_not_be_had_is_unscored_and_asked_for_again(tmp_path, tiny_tokenizer):
    rows = [{"question": f"What is {n}?", "answer": f"#### {n}"} for n in range(4)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    task = NumberTask(
        kind="number",
        data={"path": tmp_path / "rows.jsonl"},
        temperature=0.5,
        top_p=0.9,
        stop=("x",),
    )
    place = tiny_tokenizer, tmp_path / "out"
    first = Writer(failing=[1, 2])
    summary, records = run_answers(task, first, *place, model_identity="m")
    assert [record.correct for record in records] == [True, None, None, True]
    assert [record.error for record in records] == [None, "unanswered", "unanswered", None]
    assert records[1].failure == "no answer in time"
    assert (summary["scored"], summary["unscored"], summary["accuracy"]) == (2, 2, 1.0)
    assert [record.seconds for record in records] == [0.5, None, None, 0.5]
    (options,) = {options for _, _, options in first.seen}
    assert (options.temperature, options.top_p, options.stop) == (0.5, 0.9, ("x",))

    second = Writer(failing=[0])
    summary, records = run_answers(task, second, *place, model_identity="m")
    asked = [(text, seed) for text, seed, _ in second.seen]
    assert asked == [(text, seed) for text, seed, _ in first.seen][1:3]
    assert [record.error for record in records] == [None, "unanswered", "wrong", None]
    assert len(load_jsonl(tmp_path / "out/records.jsonl")) == 6  # put in order by run_task


def test_groups_of_a_resumed_evaluation_are_those_of_now(tmp_path, tiny_tokenizer):
    path, place = tmp_path / "rows.jsonl", (tiny_tokenizer, tmp_path / "out")
    rows = [{"question": f"What is {n}?", "answer": f"#### {n}", "level": "1"} for n in range(3)]
    writers = [Writer(), Writer(), Writer()]
    for level, group, writer in zip("123", ("level", "level", "grade"), writers, strict=True):
        write_jsonl(path, [{**row, "level": level, "grade": "a", "text": level} for row in rows])
        task = NumberTask(kind="number", data={"path": path}, groups={"how": group}, cluster="text")
        _, records = run_answers(task, writer, *place, model_identity="m")
        assert {r.groups["how"] for r in records} == {level if group == "level" else "a"}
        assert {r.cluster for r in records} == {level}
    assert [len(writer.seen) for writer in writers] == [3, 0, 0]
