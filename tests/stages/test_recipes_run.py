"""The studies in `recipes/`: their tiny forms from raw rows to the last step, as READMEs say."""

import json
import subprocess
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.config.load import load_recipe
from posttrain.files import load_jsonl
from posttrain.items import Item, check_item
from tests.stages.conftest import command, environment
from tests.stages.test_serve import serving
from tests.unit.evaluation.fake_judge import KEY, FakeJudge

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def read(path):
    return json.loads(path.read_text())


def read_tiny(study):
    return (ROOT / "recipes" / study / "tiny.txt").read_text().split()


@pytest.fixture
def study(tmp_path, cache_dir):
    """Do as a README says, from the project's own folder; runs go into the test's."""

    def do(name, verb="run", *more, env=()):
        recipe = f"recipes/{name}/{name}.yaml"
        done = subprocess.run(
            command(
                verb, recipe, *read_tiny(name), "compute.threads=1", f"output={tmp_path}", *more
            ),
            cwd=ROOT, env={**environment(cache_dir), **dict(env)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if verb == "run":
            stages = load_recipe(ROOT / recipe).stages
            assert all((tmp_path / name / stage.name / "stage.json").is_file() for stage in stages)
            assert (tmp_path / name / "report.html").is_file()
        return tmp_path / name, done

    return do


def summary(run, stage):
    return read(run / stage / "stage.json")["summary"]


def test_tool_calling_learns_calls_and_answers_and_is_measured(study):
    run, _ = study("tool-calling")
    report = read(run / "sft" / "data" / "report.json")
    assert report["sources"][0]["format"] == "dolci"
    assert report["rows_used"] == 60
    rows = load_jsonl(run / "train-data" / "tools.jsonl")
    calling = sum(any(turn["function_calls"] for turn in row["messages"]) for row in rows)
    # Turns that call have no content; were they not trained, these rows would be fewer.
    assert calling > 40
    assert report["trained_tokens"] > 0.08 * report["tokens"]
    training = summary(run, "sft")
    assert training["steps"] == 4
    assert training["loss_last"] < training["loss_first"] - 1
    results = read(run / "tuned" / "tool_calls" / "results.json")
    assert results["problems"] == 6
    assert results["correct"] + sum(results["errors"].values()) == 6
    assert results["comparison"]["other"] == "base"
    assert len(results["comparison"]["interval"]) == 2


def test_ela_mcq_trains_serves_and_is_judged(study, cache_dir, tmp_path):
    run, done = study("ela-mcq")
    assert "INCEPTBENCH_API_KEY is not set" in done.stderr
    assert read(run / "sft" / "data" / "report.json")["sources"][0]["format"] == "mcq"
    training = summary(run, "sft")
    assert training["loss_last"] < training["loss_first"] - 1
    lineage = read(run / "dpo" / "lineage.json")
    assert lineage["parent_model"] == str(run / "sft" / "final")
    assert read(run / "dpo" / "results.json")["metric"] == "pair_accuracy"

    items = load_jsonl(run / "items" / "items.jsonl")
    assert len(items) == 3
    for content in (item["content"] for item in items):
        options = {option["key"]: option["text"] for option in content["answer_options"]}
        check_item(
            Item(content["question"], options, content["answer"], content["answer_explanation"])
        )
    results = read(run / "tuned" / "items" / "results.json")
    assert results["problems"] == 3
    assert results["comparison"]["other"] == "base"

    with serving(cache_dir, tmp_path, str(run / "dpo" / "final")) as (_, _, url):
        wish = {"grade": "4", "skill_text": "Relative pronouns.", "difficulty": "easy", "seed": 1}
        request = urllib.request.Request(
            f"{url}/v1/mcq", json.dumps(wish).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            check_item(Item(**json.load(answer)["item"]))

    judge = FakeJudge()
    try:
        keyed = {"INCEPTBENCH_API_KEY": KEY, "INCEPTBENCH_BASE_URL": judge.address}
        study("ela-mcq", "evaluate", env=keyed)
    finally:
        judge.close()
    judged = read(run / "tuned" / "items" / "results.json")["inceptbench"]
    assert judged["mean_score"] == pytest.approx(0.9)


def test_math_is_split_trained_rewarded_and_measured_by_level_and_subject(study):
    run, _ = study("math")
    stage = read(run / "sft" / "stage.json")
    assert stage["settings"]["data"]["split"] == {
        "validation": 0.1, "test": 0.1, "seed": 42, "group_by": None, "stratify_by": None
    }  # fmt: skip
    report = read(run / "sft" / "data" / "report.json")
    parts = [report["examples"]["train"], report["examples"]["validation"], report["test_rows"]]
    assert sum(parts) == report["rows_read"] == 120
    assert 84 <= parts[0] <= 108
    assert min(parts) > 3
    assert len(load_jsonl(run / "sft" / "data" / "test.jsonl")) == parts[2]
    assert stage["summary"]["loss_last"] < stage["summary"]["loss_first"] - 3

    lines = load_jsonl(run / "grpo" / "metrics.jsonl")
    rewards = [line["reward"] for line in lines if "reward" in line]
    assert len(rewards) == 2
    assert max(rewards) > 0
    assert read(run / "grpo" / "lineage.json")["parent_model"] == str(run / "sft" / "final")

    folder = run / "grpo-measured" / "math"
    results = read(folder / "results.json")
    assert set(results["groups"]) == {"level", "subject"}
    assert sum(group["problems"] for group in results["groups"]["subject"].values()) == 12
    assert results["comparison"]["other"] == "sft-measured"
    assert "Number Theory" in (folder / "report.md").read_text()
    assert (folder / "records.csv").read_text().count("\n") > 12
    assert read(run / "sft-measured" / "gsm8k" / "results.json")["comparison"]["other"] == "base"


def test_domain_goes_from_text_to_four_bits(study, tmp_path):
    run, _ = study("domain")
    extended = summary(run, "extend-tokenizer")
    assert extended["new_tokens"] > 32
    assert extended["tokens_after"] < 0.95 * extended["tokens_before"]
    assert read(run / "pretrain" / "data" / "report.json")["rejects"]["repeated"] > 5
    for parent, stage in pairwise(("extend-tokenizer", "pretrain", "sft", "dpo", "ppo", "grpo")):
        lineage = read(run / stage / "lineage.json")
        assert lineage["parent_model"] == str(run / parent / "final")
        assert summary(run, stage)["moved_share"] == 1
    for stage in ("ppo", "grpo"):
        lines = load_jsonl(run / stage / "metrics.jsonl")
        assert all(line["reward"] == line["reward_model"] for line in lines)
        assert summary(run, stage)["steps"] == 2

    merged = run / "merge" / "final"
    model = AutoModelForCausalLM.from_pretrained(merged)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert model.get_input_embeddings().weight.shape[0] == extended["rows"]
    assert len(tokenizer) == 1536 + extended["new_tokens"]
    quantized = summary(run, "quantize")
    assert quantized["weight_bytes"] < 0.5 * quantized["weight_bytes_before"]

    results = read(run / "merged" / "perplexity" / "results.json")
    assert results["comparison"]["metric"] == "bits_per_byte"
    assert results["comparison"]["interval"][1] < 0  # fewer bits than before the training
    compared = subprocess.run(
        command("compare", str(run / "quantized"), str(run / "merged")),
        cwd=tmp_path, env=environment(tmp_path / "cache"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "bits per byte (" in compared.stdout


def test_finance_goes_from_csv_to_weights_that_a_server_takes(study):
    run, done = study("finance-lora")
    report = read(run / "sft" / "data" / "report.json")
    assert report["rows_read"] == 60
    assert report["sources"][0]["format"] == "alpaca"
    assert (run / "sft" / "final" / "adapter_model.safetensors").is_file()
    assert summary(run, "sft")["loss_last"] < summary(run, "sft")["loss_first"]
    merged = summary(run, "merge")
    assert merged["logit_difference"] < 1e-4
    assert merged["top1_agreement"] == 1
    assert done.stderr.count("hand-over: ") == 5
    assert "vllm serve " in done.stdout
    model = AutoModelForCausalLM.from_pretrained(run / "merge" / "final")
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("name", ["tool-calling", "ela-mcq", "math", "domain", "finance-lora"])
def test_readme_shows_the_tiny_form(name):
    text = (ROOT / "recipes" / name / "README.md").read_text()
    assert f"posttrain run recipes/{name}/{name}.yaml $(cat recipes/{name}/tiny.txt)" in text
