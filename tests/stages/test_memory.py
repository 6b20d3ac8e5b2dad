"""Memory that is too small, in a real run through the command line."""

import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from posttrain.files import load_json, load_jsonl, write_json
from posttrain.models.tiny import ensure_tiny
from tests.stages.conftest import environment
from tests.stages.faults import kill_at, limit_memory
from tests.stages.started import Forked

pytestmark = pytest.mark.slow

RECIPE = """\
name: one
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: train-data, kind: math, num: 200, seed: 1}
  - stage: sft
    data:
      sources: [{from_stage: train-data}]
      split: {validation: 0.05}
    steps: 3
    batch_tokens: 6144
    learning_rate: 1e-3
    log_every_steps: 1
    save_every_steps: 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(RECIPE)
    return path


def train(folder: Path, cache: Path, *arguments: str, before=None):
    return run(folder, cache, "train", "one.yaml", *arguments, before=before)


def run(folder: Path, cache: Path, *arguments: str, before=None):
    place = folder / "streams"
    place.mkdir(exist_ok=True)
    process = Forked(
        list(arguments),
        place,
        folder=folder,
        environment=environment(cache),
        before=before,
    )
    try:
        return process.wait(240)
    finally:
        process.end()


def losses(folder: Path, run: str) -> list[float]:
    rows = load_jsonl(folder / f"runs/{run}/sft/metrics.jsonl")
    return [row["loss"] for row in rows if "loss" in row]


def test_a_run_with_too_little_memory_comes_to_the_same_end(recipe, cache_dir, tmp_path):
    whole = train(tmp_path, cache_dir, "name=whole")
    assert whole.returncode == 0, whole.stderr
    said = "a batch of up to 6,144 tokens does not fit into memory (peak"
    # What a process holds beside its tensors differs from start to start: the first limit that a
    # whole batch does not keep to is the one.
    for limit in (720, 680, 640, 600, 560):
        run = f"cut-{limit}"
        cut = train(tmp_path, cache_dir, f"name={run}", before=partial(limit_memory, limit * 2**20))
        if said in cut.stderr:
            break
    assert said in cut.stderr
    assert cut.returncode == 0, cut.stderr
    assert losses(tmp_path, run) == pytest.approx(losses(tmp_path, "whole"), rel=1e-3)


def test_no_memory_at_all_is_one_line(recipe, cache_dir, tmp_path):
    result = train(tmp_path, cache_dir, before=partial(limit_memory, 180 * 2**20))
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "memory" in result.stderr.splitlines()[-1]


def test_a_batch_that_is_settled_by_itself_is_the_same_run_as_its_number(
    recipe, cache_dir, tmp_path
):
    found = train(tmp_path, cache_dir, "stages.sft.batch_tokens=auto", "name=auto")
    assert found.returncode == 0, found.stderr
    kept = load_json(tmp_path / "runs/auto/sft/memory.json")
    assert f"batch_tokens: {kept['batch_tokens']:,} (a whole pass" in found.stderr
    lineage = load_json(tmp_path / "runs/auto/sft/lineage.json")
    assert lineage["stage"]["batch_tokens"] == kept["batch_tokens"]
    written = train(tmp_path, cache_dir, f"stages.sft.batch_tokens={kept['batch_tokens']}")
    assert written.returncode == 0, written.stderr
    one, auto = weights(tmp_path, "one"), weights(tmp_path, "auto")
    assert all(torch.equal(auto[name], value) for name, value in one.items())
    (tmp_path / "runs/auto/sft/stage.json").unlink()
    again = train(
        tmp_path,
        cache_dir,
        "stages.sft.batch_tokens=auto",
        "name=auto",
        before=partial(limit_memory, 2**30),
    )
    assert again.returncode == 0, again.stderr
    assert "batch_tokens: " not in again.stderr


def test_a_resumed_run_never_takes_other_batches(recipe, cache_dir, tmp_path):
    """As on another machine, to which the checkpoints alone have been copied."""
    settings = ("stages.sft.batch_tokens=auto", "stages.sft.save_every_steps=1")
    killed = train(
        tmp_path, cache_dir, *settings, before=partial(kill_at, "os.rename", "sft/final")
    )
    assert killed.returncode == -signal.SIGKILL
    kept = tmp_path / "runs/one/sft/memory.json"
    tokens = load_json(kept)["batch_tokens"]
    kept.unlink()
    before = partial(limit_memory, 2**30)
    again = train(tmp_path, cache_dir, *settings, before=before)
    assert again.returncode == 4, again.stderr
    assert f"written with batches of {tokens:,} tokens, and `batch_tokens: auto`" in again.stderr
    assert "memory.json of that run" in again.stderr
    assert "Traceback" not in again.stderr


def test_less_room_is_a_smaller_batch(recipe, cache_dir, tmp_path):
    result = train(
        tmp_path,
        cache_dir,
        "stages.sft.batch_tokens=auto",
        before=partial(limit_memory, 2**30),
    )
    assert result.returncode == 0, result.stderr
    assert "of the address space (ulimit -v)" in result.stderr
    kept = load_json(tmp_path / "runs/one/sft/memory.json")
    assert 256 <= kept["batch_tokens"] < 6144
    assert kept["batch_tokens"] % 256 == 0


def launch(folder: Path, cache: Path, tokens: int, first_call: int, *arguments: str):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = str(Path(__file__).with_name("short_of_memory.py"))
    short = (script, str(tokens), "1", str(first_call))
    process = subprocess.Popen(
        [*launcher, "--nproc_per_node", "2", *short, "train", "one.yaml", *arguments],
        cwd=folder,
        env=environment(cache),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, errors


def weights(folder: Path, run: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"runs/{run}/sft/final/model.safetensors")


def test_processes_agree_on_smaller_batches(recipe, cache_dir, tmp_path):
    """The second one runs out of memory in the last batch of its second step."""
    settings = ("stages.sft.accumulate=2", "stages.sft.batch_tokens=512")
    code, errors = launch(tmp_path, cache_dir, 10**9, 1, "name=whole", *settings)
    assert code == 0, errors
    code, errors = launch(tmp_path, cache_dir, 300, 4, *settings)
    assert code == 0, errors
    assert errors.count("does not fit") == 1
    assert "step 2: a batch of up to 512 tokens does not fit into memory" in errors
    assert losses(tmp_path, "one") == pytest.approx(losses(tmp_path, "whole"), rel=1e-4)
    one, whole = weights(tmp_path, "one"), weights(tmp_path, "whole")
    assert max(float((one[n] - whole[n]).abs().max()) for n in whole) < 2e-3
    kept = load_json(tmp_path / "runs/one/sft/memory.json")
    assert kept["cuts"] == [{"step": 2, "tokens": 256}]


def test_processes_end_together_where_one_row_is_too_large(recipe, cache_dir, tmp_path):
    code, errors = launch(tmp_path, cache_dir, 20, 3, "stages.sft.batch_tokens=512")
    assert code != 0
    assert "this example of" in errors
    assert "alone does not fit" in errors


OWN = """\
import torch
from transformers import Qwen3ForCausalLM


class OwnForCausalLM(Qwen3ForCausalLM):
    def forward(self, input_ids=None, **inputs):
        torch.unique(input_ids)  # how many there are, no shape tells
        return super().forward(input_ids=input_ids, **inputs)
"""


def test_a_model_whose_memory_cannot_be_estimated_is_planned_and_trained(
    recipe, cache_dir, tmp_path
):
    own = tmp_path / "own"
    shutil.copytree(ensure_tiny("tiny"), own)
    (own / "modeling_own.py").write_text(OWN)
    config = load_json(own / "config.json")
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config["architectures"] = ["OwnForCausalLM"]
    write_json(own / "config.json", config)
    settings = ("model.path=own", "model.trust_remote_code=true", "stages.sft.batch_tokens=auto")
    planned = run(tmp_path, cache_dir, "plan", "one.yaml", *settings)
    assert planned.returncode == 0, planned.stderr
    assert "memory      could not be estimated: a step on shapes alone" in planned.stdout
    assert "Exception: aten._unique2" in planned.stdout
    trained = train(tmp_path, cache_dir, *settings)
    assert trained.returncode == 0, trained.stderr
    assert "batch_tokens: 2,048 (memory could not be estimated: a step on" in trained.stderr
    assert load_json(tmp_path / "runs/one/sft/memory.json")["batch_tokens"] == 2048


@pytest.mark.parametrize(
    ("kind", "rows", "tuning"),
    [("sft", "math", "full"), ("sft", "math", "lora"), ("dpo", "preference", "full")],
)
def test_the_peak_is_what_plan_says(kind, rows, tuning, cache_dir, tmp_path):
    """A new process: what a forked one holds of the others' imports would count too."""
    (tmp_path / "one.yaml").write_text(
        RECIPE.replace("kind: math, num: 200", f"kind: {rows}, num: 600")
        .replace("stage: sft", f"stage: {kind}")
        .replace("steps: 3", "steps: 2")
        .replace("6144", "8192")
        + f"tuning: {tuning}\n"
    )
    started = [sys.executable, "-m", "posttrain", "train", "one.yaml"]
    done = subprocess.run(
        started, cwd=tmp_path, env=environment(cache_dir), capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    peak = load_json(tmp_path / f"runs/one/{kind}/stage.json")["peak_memory_bytes"] / 2**20
    planned = run(tmp_path, cache_dir, "plan", "one.yaml")
    said = planned.stdout.split("  memory ")[1].split(":")[1].splitlines()[0]
    units = {"B": 2**-20, "KiB": 2**-10, "MiB": 1, "GiB": 1024}
    parts = re.findall(r"([\d.]+) ([KMG]?i?B)", said)
    assert sum(float(size) * units[unit] for size, unit in parts) == pytest.approx(peak, rel=0.15)
