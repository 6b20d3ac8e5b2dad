"""Several processes under torchrun do what one does on the same global batches."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from posttrain.files import load_json, load_jsonl
from posttrain.models.tiny import ensure_tiny
from tests.stages.conftest import environment

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
      split: {validation: 0.1}
    # Not a multiple of 4 batches: the last step has less than the others.
    epochs: 0.8
    batch_tokens: 512
    accumulate: 2
    learning_rate: 1e-3
    log_every_steps: 1
    save_every_steps: 2
"""
# One process adds up the batches that two take side by side.
SIDE_BY_SIDE = "stages.sft.accumulate=1"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(RECIPE)
    return path


def torchrun(
    folder: Path, cache: Path, *arguments: str, count: int = 2, start: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    started = start or ("-m", "posttrain")
    return subprocess.Popen(
        [*launcher, "--nproc_per_node", str(count), *started, *arguments],
        cwd=folder,
        env={**environment(cache), "DS_ACCELERATOR": "cpu"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        _, errors = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return errors


def figures(folder: Path, run: str, *names: str) -> list[float]:
    rows = load_jsonl(folder / f"runs/{run}/sft/metrics.jsonl")
    return [row[name] for row in rows for name in names if name in row]


def weights(folder: Path, run: str) -> dict[str, torch.Tensor]:
    return load_file(folder / f"runs/{run}/sft/final/model.safetensors")


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_two_processes_train_as_one(strategy, cli, recipe, cache_dir, tmp_path):
    alone = cli("train", str(recipe), "stages.sft.accumulate=4")
    assert alone.returncode == 0, alone.stderr
    process = torchrun(
        tmp_path, cache_dir, "train", str(recipe), "name=two", f"parallel.strategy={strategy}",
    )  # fmt: skip
    errors = finish(process)
    assert process.returncode == 0, errors
    assert f"2 processes ({strategy})" in errors
    for name in ("loss", "validation_loss", "token_accuracy", "tokens"):
        assert figures(tmp_path, "two", name) == pytest.approx(
            figures(tmp_path, "one", name), rel=1e-4
        )
    one, two = weights(tmp_path, "one"), weights(tmp_path, "two")
    assert one.keys() == two.keys()
    # Sums in another order; AdamW makes small differences of tiny gradients larger.
    assert max(float((one[n] - two[n]).abs().max()) for n in one) < 2e-3
    assert errors.count("rows read") == 1  # one process speaks


def test_two_processes_stop_together_and_go_on_exactly(recipe, cache_dir, tmp_path):
    settings = ("train", str(recipe), SIDE_BY_SIDE, "stages.sft.epochs=2")
    process = torchrun(tmp_path, cache_dir, *settings)
    first = tmp_path / "runs/one/sft/checkpoints/step-000002"
    deadline = time.monotonic() + 120
    while not first.is_dir() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    errors = finish(process)
    assert "all is saved" in errors
    again = torchrun(tmp_path, cache_dir, *settings)
    errors = finish(again)
    assert again.returncode == 0, errors
    assert "going on from step" in errors
    unbroken = torchrun(tmp_path, cache_dir, *settings, "name=unbroken")
    errors = finish(unbroken)
    assert unbroken.returncode == 0, errors
    left, right = weights(tmp_path, "one"), weights(tmp_path, "unbroken")
    assert all(torch.equal(left[name], right[name]) for name in right)


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_processes_agree_on_a_loss_that_only_one_of_them_has(action, recipe, cache_dir, tmp_path):
    """The second one's first batch of the second step is NaN."""
    script = str(Path(__file__).with_name("spoilt_process.py"))
    process = torchrun(
        tmp_path, cache_dir, "train", str(recipe), f"stages.sft.on_nonfinite={action}",
        start=(script, "1", "3"),
    )  # fmt: skip
    errors = finish(process)
    assert "step 2: the loss of a batch in another process is not finite" in errors
    if action == "stop":
        assert process.returncode != 0
        assert not (tmp_path / "runs/one/sft/final").exists()
        return
    assert process.returncode == 0, errors
    (entry,) = load_json(tmp_path / "runs/one/sft/rollbacks.json")
    assert (entry["step"], entry["back_to"]) == (2, 0)
    assert len(entry["rows"]) > 10  # of the whole step
    rows = load_jsonl(tmp_path / "runs/one/sft/metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 3]


def test_another_number_of_processes_is_refused_before_a_step(cli, recipe, cache_dir, tmp_path):
    settings = ("train", str(recipe), "stages.sft.epochs=0.5")
    done = cli(*settings)
    assert done.returncode == 0, done.stderr
    stage = tmp_path / "runs/one/sft"
    (stage / "stage.json").unlink()
    process = torchrun(tmp_path, cache_dir, *settings)
    errors = finish(process)
    assert process.returncode != 0
    assert "written by 1 processes, and there are 2 now" in errors


def test_another_strategy_is_refused_on_the_way(recipe, cli, cache_dir, tmp_path):
    settings = ("train", str(recipe), "stages.sft.epochs=0.5")
    done = cli(*settings)
    assert done.returncode == 0, done.stderr
    (tmp_path / "runs/one/sft/stage.json").unlink()
    process = torchrun(tmp_path, cache_dir, *settings, "parallel.strategy=zero2", count=1)
    errors = finish(process)
    assert process.returncode != 0
    assert "written with parallel.strategy ddp, and it is zero2 now" in errors


@pytest.mark.parametrize("content", ["not json", "{}", '{"zero_optimization": {"stage": 7}}'])
def test_a_deepspeed_file_that_says_nothing_is_one_line(content, recipe, cli, tmp_path):
    own = tmp_path / "ds.json"
    own.write_text(content)
    result = cli("train", str(recipe), f"parallel.deepspeed={own}")
    assert result.returncode == 2
    assert "ds.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_zero_without_a_launcher_says_how_to_start(cli, recipe):
    result = cli("train", str(recipe), "parallel.strategy=zero2")
    assert result.returncode == 2
    assert "needs a launcher" in result.stderr
    assert "torchrun --nproc_per_node" in result.stderr
    assert "Traceback" not in result.stderr


def test_rows_are_prepared_before_there_is_a_process_group(cli, recipe, cache_dir, tmp_path):
    """Who prepares long must not be waited for in a collective, whose time is limited."""
    prepared = cli("prepare", str(recipe))
    assert prepared.returncode == 0, prepared.stderr
    folder = Path(prepared.stdout.split("prepared in ")[1].splitlines()[0])
    cache = tmp_path / "cache"
    shutil.copytree(ensure_tiny("tiny"), cache / "models" / ensure_tiny("tiny").name)
    (cache / "prepared").mkdir()
    with FileLock(cache / "prepared" / f"{folder.name}.lock"):
        process = torchrun(tmp_path, cache, "train", str(recipe), SIDE_BY_SIDE)
        try:
            wait_said(process, "another process prepares this data")
            assert not connected(process)
        except BaseException:
            end(process)
            raise
    try:
        while not connected(process):
            assert process.poll() is None, "it never made a process group"
            time.sleep(0.02)
    finally:
        end(process)
    assert [path.name for path in (cache / "prepared").glob("*[!k]")] == [folder.name]


def wait_said(process: subprocess.Popen[str], text: str) -> None:
    """Read what a launcher's processes say, up to a line with a text."""
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"it has ended and not said: {text}")


def end(process: subprocess.Popen[str]) -> None:
    """Kill a launcher and its processes, which are in sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for rank in psutil.Process(process.pid).children():
            rank.kill()
    process.kill()
    process.communicate()


def connected(process: subprocess.Popen[str]) -> bool:
    """Whether the processes of a launcher talk to each other."""
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    try:
        return any(rank.net_connections("tcp") for rank in ranks)
    except psutil.NoSuchProcess:
        return False


AVERAGING = """
import torch, torch.distributed as dist
from posttrain.training.processes import average_gradients
dist.init_process_group("gloo")
experts = torch.nn.ModuleList([torch.nn.Linear(2, 1, bias=False) for _ in range(3)])
# Each process uses an expert that the other one does not; nobody uses the last.
experts[dist.get_rank()](torch.ones(2)).sum().backward()
average_gradients(experts)
assert [None if e.weight.grad is None else e.weight.grad.tolist() for e in experts] == [
    [[0.5, 0.5]], [[0.5, 0.5]], None
]
print("averaged")
"""


def test_a_gradient_that_one_process_lacks_counts_as_zero(tmp_path):
    script = tmp_path / "averaging.py"
    script.write_text(AVERAGING)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.stdout.count("averaged") == 2, done.stderr


MEASURED = """
    evaluation:
      tasks:
        - {kind: number, name: sums, data: {from_stage: test-data}, max_new_tokens: 8}
        - {kind: perplexity, name: text, data: {path: held.txt}, documents: paragraph}
      problems: 37
      every_steps: 4
    keep_best: text/perplexity
"""


def test_two_processes_share_the_tasks_of_a_measured_training(cli, cache_dir, tmp_path):
    path = tmp_path / "one.yaml"
    problems = "  - {stage: sample-data, name: test-data, kind: math, num: 40, seed: 2}\n"
    path.write_text(RECIPE.replace("  - stage: sft\n", f"{problems}  - stage: sft\n") + MEASURED)
    # Fewer documents than a share has places: one process gets nothing to do.
    (tmp_path / "held.txt").write_text("Three and four are seven, which is odd.\n")
    alone = cli("train", str(path), "stages.sft.accumulate=4")
    assert alone.returncode == 0, alone.stderr
    process = torchrun(tmp_path, cache_dir, "train", str(path), "name=two")
    errors = finish(process)
    assert process.returncode == 0, errors
    sides = []
    for run in ("one", "two"):
        stage = tmp_path / "runs" / run / "sft"
        rows = [row for row in load_jsonl(stage / "metrics.jsonl") if "sums/accuracy" in row]
        (last,) = (stage / "evaluation").glob(f"step-{rows[-1]['step']:06d}/sums/records.jsonl")
        records = load_jsonl(last)
        best = (stage / "checkpoints/best").resolve().name
        sides.append(([row["step"] for row in rows], best, [r["id"] for r in records]))
        assert len(records) == 37
        assert [r["id"] for r in records] == sorted(
            (r["id"] for r in records), key=lambda name: int(name.rpartition(":")[2])
        )
    assert sides[0] == sides[1]
    for name in ("sums/accuracy", "text/perplexity"):
        assert figures(tmp_path, "two", name) == pytest.approx(
            figures(tmp_path, "one", name), rel=1e-2
        )
    assert errors.count("  sums  ") == len(sides[1][0])  # one process speaks
