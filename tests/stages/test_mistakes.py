"""A user's mistake: one clear line, its own exit status, no traceback."""

import copy
import json

import pytest

from posttrain.config.model import ModelConfig
from posttrain.models.load import load_model, load_tokenizer
from tests.stages.conftest import RECIPE


def complain(result, status: int, *parts: str) -> None:
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    for part in parts:
        assert part in lines[0]


def data_recipe(tmp_path, file: str) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nmodel: {path: tiny}\nstages:\n  - stage: sft\n    data:\n"
        f"      sources: [{{path: {file}}}]\n    steps: 2\n"
    )
    return str(path)


def test_typo_in_a_recipe(cli, recipe):
    recipe.write_text(RECIPE.replace("learning_rate", "learning_rat"))
    result = cli("run", str(recipe))
    line = RECIPE.splitlines().index("    learning_rate: 3e-3") + 1
    complain(result, 2, f"small.yaml:{line}", "did you mean `learning_rate`?")


def test_plan_tries_what_is_passed_on_to_transformers(cli, recipe):
    result = cli("plan", str(recipe), "stages.sft.training_args.log_level=shout")
    complain(result, 2, "transformers refuses", "it knows no 'shout'")


def test_recipe_that_does_not_exist(cli):
    complain(cli("run", "nowhere.yaml"), 2, "nowhere.yaml", "cannot read the recipe")


def test_missing_data_file(cli, tmp_path):
    complain(cli("run", data_recipe(tmp_path, "gone.jsonl")), 3, "gone.jsonl", "no such file")


def test_broken_json_line(cli, tmp_path):
    good = json.dumps({"question": "1 + 1?", "answer": "#### 2"})
    (tmp_path / "rows.jsonl").write_text(f"{good}\n{good[:-5]}\n")
    complain(cli("run", data_recipe(tmp_path, "rows.jsonl")), 3, "rows.jsonl:2", "broken JSON")


def test_empty_data_set(cli, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n\n")
    complain(cli("run", data_recipe(tmp_path, "rows.jsonl")), 3, "rows.jsonl", "no rows")


def test_rows_of_no_known_format(cli, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"foo": 1}\n')
    complain(cli("run", data_recipe(tmp_path, "rows.jsonl")), 3, "`foo`", "columns")


@pytest.mark.parametrize("model", ["./models/none", "/nowhere/model"])
def test_model_folder_that_does_not_exist(cli, recipe, model):
    complain(cli("run", str(recipe), f"model.path={model}"), 4, "no such folder")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_tokenizer_with_more_tokens_than_the_model_has_rows(
    cli, recipe, tiny_tokenizer, tmp_path, command
):
    wide = copy.deepcopy(tiny_tokenizer)
    wide.add_tokens([f"word{i}" for i in range(9000)])
    wide.save_pretrained(tmp_path / "wide")
    result = cli(command, str(recipe), "model.tokenizer=./wide")
    complain(result, 2, "wide has ", "the model tiny rows for ", "extend-tokenizer")


def test_parquet_rows_and_json_templates_are_trained_on(cli, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"input": f"{i} + 1?", "output": str(i + 1)} for i in range(20)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    template = {
        f"{role}_{side}": f"<{role}>" if side == "prefix" else "<|im_end|>"
        for role in ("system", "user", "assistant")
        for side in ("prefix", "suffix")
    }
    (tmp_path / "prefixes.json").write_text(json.dumps(template))
    own = data_recipe(tmp_path, "rows.parquet")
    result = cli("train", own, "model.chat_template=prefixes.json", "compute.threads=1")
    assert result.returncode == 0, result.stderr
    (report,) = tmp_path.glob("**/sft/data/report.json")
    source = json.loads(report.read_text())["sources"][0]
    assert (source["format"], source["rows"]) == ("input_output", 20)
    kept = report.parents[1] / "final/chat_template.jinja"
    assert "<assistant>" in kept.read_text()


def test_hub_model_without_a_network(cli, recipe):
    result = cli("run", str(recipe), "model.path=Qwen/Qwen3-0.6B")
    complain(result, 4, "Qwen/Qwen3-0.6B", "hub cannot be reached", "HF_HUB_CACHE")


def test_output_that_cannot_be_written(cli, recipe, tmp_path):
    (tmp_path / "file").write_text("")
    complain(cli("run", str(recipe), "output=file/runs"), 1, "cannot write", "output=DIR")


def test_override_of_an_unknown_stage(cli, recipe):
    complain(cli("run", str(recipe), "stages.stf.steps=1"), 2, "no item `stf`", "sft")


def test_evaluation_of_a_model_that_was_not_trained(cli, recipe):
    complain(cli("evaluate", str(recipe)), 2, "`sft`, which has not been made")


def test_too_many_sample_rows(cli):
    complain(cli("sample-data", "math", "--num", "99999999", "--out", "m.jsonl"), 2, "fewer rows")


def test_report_of_a_folder_that_is_no_run(cli, tmp_path):
    complain(cli("report", str(tmp_path)), 3, "not a run's folder")


def test_missing_file_of_a_later_stage_is_found_before_the_first_one(cli, recipe, tmp_path):
    gone = "stages.tuned.tasks.0.data={path: gone.jsonl}"
    complain(cli("run", str(recipe), gone), 3, "gone.jsonl", "no such file")
    assert not (tmp_path / "runs/small/sft").exists()


def test_cuda_without_a_cuda_device(cli, recipe):
    result = cli("run", str(recipe), "compute.device=cuda")
    complain(result, 2, "compute.device: cuda", "set compute.device=cpu")


def test_nothing_to_evaluate(cli, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    result = cli("evaluate", data_recipe(tmp_path, "rows.jsonl"))
    complain(result, 2, "no evaluate stage")


def test_a_model_in_the_place_of_a_recipe_is_told_of_tasks(cli, tmp_path):
    (tmp_path / "model").mkdir()
    for target in ("model", "tiny"):
        hint = f"posttrain evaluate {target} --tasks"
        complain(cli("evaluate", target), 2, f"{target}: not a recipe", hint)


def test_hints_without_a_chat_template_can_be_followed(cli, tmp_path):
    tokenizer = load_tokenizer(ModelConfig(path="tiny"))
    (tmp_path / "own.jinja").write_text(tokenizer.chat_template)
    tokenizer.chat_template = None
    model = load_model(ModelConfig(path="tiny"), attention="sdpa", dtype="float32")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "bare")
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    asked = ("evaluate", "./bare", "--tasks", "gsm8k", "tasks.gsm8k.data.path=rows.jsonl")
    asked += ("tasks.gsm8k.max_new_tokens=2",)
    hints = ("chat_template=FILE", "tasks.gsm8k.context=text")
    complain(cli(*asked, "out=none"), 2, "bare has no chat template", *hints)
    for place, key in (("chat", "chat_template=own.jinja"), ("text", "tasks.gsm8k.context=text")):
        result = cli(*asked, f"out={place}", key)
        assert result.returncode == 0, result.stderr
        # Which file was read, and how much of it.
        assert f"gsm8k: 1 problem of {tmp_path / 'rows.jsonl'}" in result.stderr


def test_a_place_that_cannot_be_written_is_told_with_the_key_at_hand(cli, tmp_path):
    (tmp_path / "file").touch()
    result = cli("evaluate", "tiny", "--opencompass", "out=file")
    complain(result, 1, "cannot write", "choose another place with out=DIR")
    result = cli("compare", "a", "b", "--html", ".")
    complain(result, 2, "--html .: is a folder", "give the name of a file")
