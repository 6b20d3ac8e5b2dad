"""The main job through the command line, and what a stranger does around it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from posttrain.files import digest_file

pytestmark = pytest.mark.slow


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_whole_recipe_trains_measures_reports_and_is_not_run_twice(cli, recipe, tmp_path):
    first = cli("run", str(recipe))
    assert first.returncode == 0, first.stderr
    run = tmp_path / "runs" / "small"
    training = read(run / "sft" / "stage.json")["summary"]
    assert training["steps"] == 24
    assert training["loss_last"] < training["loss_first"] - 1
    report = read(run / "sft" / "data" / "report.json")
    assert report["rows_read"] == 400
    assert sum(report["examples"].values()) + sum(report["rejects"].values()) == 400
    assert "contamination: " in first.stderr
    assert "mask audit: " in first.stderr
    results = read(run / "tuned" / "gsm8k" / "results.json")
    assert results["problems"] == 20
    assert results["comparison"]["other"] == "base"
    assert (run / "report.html").stat().st_size > 10_000
    assert "posttrain chat" in first.stdout

    second = cli("run", str(recipe))
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("unchanged, not run again") == 5

    explained = cli("explain", str(run / "sft" / "final"))
    assert "files intact" in explained.stdout
    assert report["digest"] in explained.stdout
    compared = cli("compare", str(run / "tuned"), str(run / "base"), "--html", "c.html")
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "c.html").is_file()
    whole = cli("explain", str(run)).stdout
    assert "trained_tokens" in whole
    assert "stopped_early" not in whole
    answered = cli("chat", str(run), "max_new_tokens=8", stdin="What is 3 plus 4?\n\n")
    assert answered.returncode == 0, answered.stderr

    weights = run / "sft" / "final" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    damaged = cli("explain", str(run / "sft" / "final"))
    assert damaged.returncode == 7
    assert "has changed since it was written" in damaged.stderr
    assert cli("explain", str(run)).returncode == 7
    refused = cli("run", str(recipe))
    assert refused.returncode == 4
    assert "has changed since it was written; delete" in refused.stderr


def test_mistakes_and_questions_leave_a_finished_run_alone_and_a_lost_model_is_written_again(
    cli, recipe, tmp_path
):
    assert cli("train", str(recipe)).returncode == 0
    run = tmp_path / "runs" / "small"
    training = read(run / "sft" / "stage.json")["summary"]
    # A mistake is told before the finished result is touched, and asking changes nothing.
    refused = cli("train", str(recipe), "stages.sft.batch_tokens=20")
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("error: ")
    assert cli("prepare", str(recipe), "stages.sft.steps=7").returncode == 0
    assert not list(run.glob("*.old-*"))
    assert (run / "sft" / "final" / "MANIFEST.json").is_file()

    # As after a kill while the final model was written: the last checkpoint is the whole run.
    weights = run / "sft" / "final" / "model.safetensors"
    digest = digest_file(weights)
    shutil.rmtree(run / "sft" / "final")
    again = cli("train", str(recipe))
    assert again.returncode == 0, again.stderr
    assert "going on from step 24 of 24" in again.stderr
    assert digest_file(weights) == digest
    repeated = read(run / "sft" / "stage.json")["summary"]
    speeds = [s["tokens_per_second"] for s in (repeated, training)]
    assert speeds[0] == pytest.approx(speeds[1], rel=0.2)


def test_one_flag_switches_to_lora_and_a_changed_setting_keeps_the_old_result(
    cli, recipe, tmp_path
):
    short = ("stages.sft.steps=4", "stages.sft.data.split.validation=0")
    assert cli("train", str(recipe), *short).returncode == 0
    full = digest_file(tmp_path / "runs/small/sft/final/model.safetensors")
    lora = cli("train", str(recipe), *short, "tuning=lora", "lora.rank=4")
    assert lora.returncode == 0, lora.stderr
    assert (tmp_path / "runs/small/sft/final/adapter_model.safetensors").is_file()
    kept = tmp_path / "runs/small/sft.old-1/final/model.safetensors"
    assert digest_file(kept) == full
    measured = cli("evaluate", str(recipe), *short, "tuning=lora", "lora.rank=4")
    assert measured.returncode == 0, measured.stderr
    assert (tmp_path / "runs/small/tuned/gsm8k/results.json").is_file()


def test_plan_counts_what_the_run_then_does(cli, recipe, tmp_path):
    settings = ("stages.sft.steps=null", "stages.sft.epochs=1", "stages.sft.accumulate=3")
    planned = cli("plan", str(recipe), *settings)
    assert planned.returncode == 0, planned.stderr
    assert cli("train", str(recipe), *settings).returncode == 0
    done = read(tmp_path / "runs/small/sft/stage.json")["summary"]
    assert f"= {done['steps']:,} optimizer steps" in planned.stdout
    assert f"{done['tokens']:,} tokens" in planned.stdout
    assert f"{done['trainable_parameters']:,} of {done['total_parameters']:,}" in planned.stdout
    peak = read(tmp_path / "runs/small/sft/stage.json")["peak_memory_bytes"]
    estimate = float(planned.stdout.split("memory      about ")[1].split(" MiB")[0]) * 2**20
    assert 0.5 * peak < estimate < 2 * peak


def test_own_file_is_prepared_and_inspected_without_a_recipe(cli, tmp_path):
    rows = [
        {"instruction": "Say hello in Chinese.", "input": "", "output": "你好！"},
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
    ]
    (tmp_path / "own.json").write_text(json.dumps(rows, ensure_ascii=False))
    prepared = cli("prepare", "own.json")
    assert prepared.returncode == 0, prepared.stderr
    assert "2 rows read = 2 used" in prepared.stderr
    shown = cli("inspect", "own.json", "--count", "2")
    # A character of several byte tokens is shown where it is complete.
    assert re.search(r"⟦·*你·*好·*！<\|im_end\|>⟧", shown.stdout.replace("╎", ""))
    page = cli("inspect", "own.json", "--html", "own.html")
    assert page.returncode == 0, page.stderr
    assert "你好" in (tmp_path / "own.html").read_text()
