"""kill -9 at random moments, again and again: the run ends with the weights of an unbroken one."""

import os
import random
import shutil
import signal
import time

import pytest

from posttrain.runs.verify import verify_folder
from tests.torture.conftest import Place, wants_all

pytestmark = pytest.mark.slow

MOMENTS = ("any time", "a step", "a save", "preparation", "pruning")


def pytest_generate_tests(metafunc):
    many = wants_all(metafunc.config)
    if "kills" in metafunc.fixturenames:
        runs = [(tuning, seed, 10) for seed in (1, 2, 3) for tuning in ("full", "lora")]
        metafunc.parametrize(("tuning", "seed", "kills"), runs if many else [("full", 7, 3)])


def test_a_run_killed_again_and_again_ends_as_the_unbroken_one(
    tuning, seed, kills, unbroken, tmp_path, note
):
    print(f"seed {seed}")
    chance = random.Random(seed)
    place = Place(tmp_path)
    command = ("train", "small.yaml", f"tuning={tuning}")
    moments = []
    for _ in range(kills):
        moments.append(chance.choice(MOMENTS))
        kill_at_moment(place, command, moments[-1], chance)
    done = place.finish(*command)
    assert done.returncode == 0, done.stderr
    weights, metrics = unbroken(tuning)
    assert place.weights() == weights, moments
    assert place.metrics() == metrics, moments
    verify_folder(place.run)
    assert not list(place.run.rglob(".step-*"))
    for moment in sorted(set(moments)):
        note(f"kill -9 in {moment}", moments.count(moment), f"{tuning} seed {seed}")


def test_killed_while_the_model_is_written(unbroken, tmp_path, note):
    place = Place(tmp_path)
    command = ("train", "small.yaml", "tuning=full")
    process = place.start(*command)
    kill_when(process, lambda: any(place.stage.glob(".final.*")))
    assert not (place.stage / "final").exists()
    assert place.finish(*command).returncode == 0
    assert place.weights() == unbroken("full")[0]
    note("kill -9 in writing the model")


def kill_at_moment(place, command, moment, chance):
    """Start the run and kill it; it makes at most five steps or so in between."""
    if moment == "preparation":
        shutil.rmtree(place.cache / "prepared", ignore_errors=True)
    process = place.start(*command)
    lines = count_lines(place)
    if moment == "any time":
        ends = time.monotonic() + chance.uniform(0, 4)
        reached = lambda: time.monotonic() > ends or count_lines(place) > lines + 4  # noqa: E731
    elif moment == "a step":
        wanted = lines + chance.randint(1, 4)
        reached = lambda: count_lines(place) >= wanted  # noqa: E731
    elif moment == "a save":
        checkpoints = place.stage / "checkpoints"
        ends = chance.uniform(0, 0.03)
        reached = lambda: any(checkpoints.glob(".step-*")) and not time.sleep(ends)  # noqa: E731
    elif moment == "pruning":
        checkpoints = place.stage / "checkpoints"
        reached = lambda: (  # noqa: E731
            any(checkpoints.glob(".step-*.pruned")) or count_lines(place) > lines + 8
        )
    else:
        prepared = place.cache / "prepared"
        reached = lambda: any(prepared.glob(".*.*")) or count_lines(place) > lines  # noqa: E731
    kill_when(process, reached)


def kill_when(process, reached):
    """Kill when something has come about; the run must not have ended before."""
    ends = time.monotonic() + 120
    while not reached():
        assert process.is_alive(), "it has ended before it was killed"
        assert time.monotonic() < ends
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.end()


def count_lines(place):
    path = place.stage / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
