import json

from posttrain.config.evaluation import NumberTask
from posttrain.config.model import ModelConfig
from posttrain.evaluation.tasks import check_task, load_task_model, run_task
from posttrain.files import write_jsonl
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
