"""Nothing that befalls a process that prepares data leaves data that are wrong, or half."""

import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial

import psutil
import pytest

from posttrain.files import digest_file
from posttrain.models.tiny import ensure_tiny
from posttrain.samples import GENERATORS
from tests.stages.conftest import environment
from tests.stages.faults import (
    hold_at,
    kill_at,
    limit_file_size,
    note_each,
    release,
    wait_held,
)
from tests.stages.started import Forked

# The second file is opened when the rows of the first are with the worker processes.
FILES = ("first.jsonl", "second.jsonl")
ROWS = 300
# Event and path before which the builder dies, in the order in which it gets there.
DEATHS = {
    "as it begins": ("open", "rows/token_ids.npy"),
    "as it writes the examples": ("open", "train/weights.npy"),
    "as it clears away": ("shutil.rmtree", "/rows"),
    "before the folder gets its name": ("os.rename", ".folder"),
}


@pytest.fixture(scope="module")
def tiny(cache_dir):
    return str(ensure_tiny("tiny"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Files at one place for all tests: it is part of what a data set is found by."""
    folder = tmp_path_factory.mktemp("rows")
    for seed, name in enumerate(FILES):
        lines = (json.dumps(row, ensure_ascii=False) for row in GENERATORS["chat"](ROWS, seed))
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def begin(rows, tiny):
    """Start ``posttrain prepare`` in a folder, with a cache there."""
    begun = []

    def run(folder, *settings, cache="cache", before=None):
        place = folder / f"process-{len(begun)}"
        place.mkdir()
        process = Forked(
            ["prepare", str(rows), f"model.path={tiny}", *settings],
            place,
            folder=folder,
            environment=environment(folder / cache),
            before=before,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.end()


@pytest.fixture
def start(begin, tmp_path):
    """Start ``posttrain prepare`` in the test's folder."""
    return partial(begin, tmp_path)


def in_processes(count):
    return f"stages.sft.data.workers={count}"


def prepared(cache):
    """Folders of the cache by name; half ones and litter among them, lock files not."""
    return {p.name: p for p in (cache / "prepared").iterdir() if p.suffix != ".lock"}


def contents(folder):
    return {
        str(path.relative_to(folder)): digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def finished(process):
    result = process.wait(60)
    assert result.returncode == 0, result.stderr
    return result


def one_line(result):
    """The error of a command that ends with one and nothing else of the kind."""
    assert "Traceback" not in result.stderr, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == errors[0]
    return errors[0]


def the_only(cache):
    (name,) = prepared(cache)
    assert not name.startswith(".")
    return prepared(cache)[name]


@pytest.fixture(scope="module")
def whole(begin, tmp_path_factory):
    """The data set where nothing has gone wrong."""
    folder = tmp_path_factory.mktemp("whole")
    finished(begin(folder, in_processes(1)))
    return the_only(folder / "cache")


@pytest.fixture(scope="module")
def clean(whole):
    """Its contents."""
    return contents(whole)


@pytest.mark.parametrize("moment", DEATHS)
def test_after_a_kill_9_the_next_start_builds_the_whole(moment, start, whole, clean, tmp_path):
    event, ending = DEATHS[moment]
    if ending == ".folder":
        ending = f"/{whole.name}"
    killed = start(before=partial(kill_at, event, ending)).wait(60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all(name.startswith(".") for name in prepared(tmp_path / "cache"))

    finished(start())
    assert contents(the_only(tmp_path / "cache")) == clean


def test_of_nine_processes_one_builds_and_eight_take_it(start, whole, clean, tmp_path):
    name = whole.name
    builds = tmp_path / "builds"
    first = start(before=partial(hold_and_note, "rows/token_ids.npy", tmp_path, f"/{name}", builds))
    wait_held(tmp_path, first)
    others = [start(before=partial(note_each, "os.rename", f"/{name}", builds)) for _ in range(8)]
    for process in others:
        process.wait_for("another process prepares this data")
    release(tmp_path)

    printed = {finished(process).stdout for process in (first, *others)}
    assert len(printed) == 1
    assert builds.read_text() == f"{first.pid}\n"
    assert contents(the_only(tmp_path / "cache")) == clean


def hold_and_note(ending, place, target, builds):
    note_each("os.rename", target, builds)
    hold_at("open", ending, place)


@pytest.mark.parametrize("count", [1, 2])
def test_a_write_that_is_refused_is_one_line_and_leaves_nothing(count, start, clean, tmp_path):
    settings = in_processes(count)
    result = start(settings, before=partial(limit_file_size, 50_000)).wait(60)
    assert result.returncode == 1
    line = one_line(result)
    assert "cannot write" in line
    assert "File too large" in line
    assert str(tmp_path / "cache") in line
    assert not prepared(tmp_path / "cache")

    finished(start(settings))
    assert contents(the_only(tmp_path / "cache")) == clean


def test_a_full_disk_is_one_line_and_with_space_the_next_start_works(start, clean, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        result = start(cache="disk").wait(60)
        assert result.returncode == 1
        assert "No space left on device" in one_line(result)
        assert not prepared(disk)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        finished(start(cache="disk"))
        assert contents(the_only(disk)) == clean
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_cache_that_cannot_be_made_is_one_line(start, tmp_path):
    (tmp_path / "file").touch()
    result = start(cache="file/cache").wait(60)
    assert result.returncode == 1
    assert str(tmp_path / "file") in one_line(result)


def has_ended(process):
    """Whether a process is gone; one that nobody has asked after yet is, too."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_ended(processes):
    deadline = time.monotonic() + 60
    while not all(map(has_ended, processes)):
        assert time.monotonic() < deadline, "worker processes are left over"
        time.sleep(0.01)


@pytest.fixture
def held(start, tmp_path):
    """Start a process and wait until it stands still with all its workers, in mid-work."""

    def run(workers, *settings):
        before = partial(hold_at, "open", FILES[1], tmp_path, workers=True)
        process = start(in_processes(workers), *settings, before=before)
        wait_held(tmp_path, process)
        family = psutil.Process(process.pid).children()
        assert len(family) == workers
        return process, family

    return run


def test_kill_9_of_the_parent_leaves_no_workers(held, start, clean, tmp_path):
    process, family = held(4)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60).returncode == -signal.SIGKILL
    wait_ended(family)

    # Nor the lock, which they had inherited.
    finished(start())
    assert contents(the_only(tmp_path / "cache")) == clean


def test_a_killed_worker_is_one_line_and_no_hang(held, start, clean, tmp_path):
    process, family = held(2)
    family[0].kill()
    release(tmp_path)
    result = process.wait(60)
    assert result.returncode == 1
    assert "a process that prepares data was killed" in one_line(result)
    assert not prepared(tmp_path / "cache")
    wait_ended(family)

    finished(start(in_processes(2)))
    assert contents(the_only(tmp_path / "cache")) == clean


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_ends_it_with_one_line_that_says_how_to_go_on(number, whole_group, held, tmp_path):
    process, family = held(2)
    send = os.killpg if whole_group else os.kill
    send(process.pid, number)
    result = process.wait(60)
    assert result.returncode == 130
    line = one_line(result)
    assert "interrupted" in line
    assert "go on with: posttrain prepare" in line
    assert not prepared(tmp_path / "cache")
    wait_ended(family)
