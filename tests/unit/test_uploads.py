"""Copies elsewhere: whole or without a manifest, never in the way, and told where they fail."""

import shutil
import threading
import time
import uuid
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from posttrain.checkpoints import MANIFEST, find_damage, prune_checkpoints, write_checkpoint
from posttrain.errors import ConfigError, MissingExtraError
from posttrain.files import load_json
from posttrain.uploads import RECORD, Uploader, check_upload, list_missing


@pytest.fixture
def stage(tmp_path):
    folder = tmp_path / "demo" / "sft"
    folder.mkdir(parents=True)
    (folder / "started.json").write_text("{}")
    (folder / "memory.json").write_text("{}")
    (folder.parent / "environment.json").write_text('{"threads": 1}')
    return folder


@pytest.fixture
def bucket():
    """An empty place in fsspec's memory."""
    return f"memory://{uuid.uuid4().hex}/demo"


def save(stage, step):
    with write_checkpoint(stage / "checkpoints", step, {}) as folder:
        (folder / "weights.bin").write_bytes(b"%d" % step * 1000)
        (folder / "state").mkdir()
        (folder / "state" / "optimizer.bin").write_bytes(b"moments")
    return stage / "checkpoints" / f"step-{step:06d}"


def start(url, stage, **options):
    return Uploader(url, stage.parent, stage, **options)


def list_names(url):
    system, base = fsspec.core.url_to_fs(url)
    return sorted(name.removeprefix(base) for name in system.find(base))


class Trouble(MemoryFileSystem):
    """A place where writing fails or waits; what happened is in ``put``."""

    protocol = "trouble"
    cachable = False
    failures = 0
    gate = threading.Event()
    put: ClassVar[list[str]] = []

    def put_file(self, lpath, rpath, callback=None, **kwargs):
        Trouble.put.append(rpath.rpartition("/")[2])
        assert Trouble.gate.wait(30)
        if Trouble.failures:
            Trouble.failures -= 1
            raise OSError("503 slow down")
        return super().put_file(lpath, rpath, **kwargs)


@pytest.fixture
def trouble():
    fsspec.register_implementation("trouble", Trouble, clobber=True)
    Trouble.failures, Trouble.put = 0, []
    Trouble.gate.set()
    return Trouble


def wait_until(condition):
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_checkpoint_is_copied_with_what_going_on_needs_and_its_manifest_last(
    stage, trouble, capsys
):
    uploader = start(f"trouble://{uuid.uuid4().hex}/demo", stage)
    uploader.offer(save(stage, 2))
    uploader.close(30)
    assert trouble.put[-1] == MANIFEST
    assert trouble.put.count(MANIFEST) == 1
    assert list_names(uploader.url) == [
        "/environment.json",
        "/sft/checkpoints/step-000002/MANIFEST.json",
        "/sft/checkpoints/step-000002/state/optimizer.bin",
        "/sft/checkpoints/step-000002/weights.bin",
        "/sft/memory.json",
        "/sft/started.json",
    ]
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_what_was_copied_to_a_folder_is_intact_there(stage, tmp_path, form):
    uploader = start(form.format(tmp_path / "away" / "demo"), stage)
    uploader.offer(save(stage, 2))
    uploader.close(30)
    copy = tmp_path / "away/demo/sft/checkpoints/step-000002"
    assert find_damage(copy) is None
    assert list_missing(stage)[1] == {}


def test_what_fails_is_tried_again(stage, trouble, capsys):
    trouble.failures = 2
    uploader = start(f"trouble://{uuid.uuid4().hex}", stage, pauses=(0.01, 0.01))
    uploader.offer(save(stage, 2))
    uploader.close(30)
    assert uploader.has(stage / "checkpoints/step-000002")
    assert "warning" not in capsys.readouterr().err


def test_what_keeps_failing_is_told_noted_and_harms_nothing(stage, trouble, capsys):
    trouble.failures = 1000
    uploader = start(f"trouble://{uuid.uuid4().hex}", stage, pauses=(0.01,))
    uploader.offer(save(stage, 2))
    uploader.close(30)
    said = capsys.readouterr().err
    assert said.count("warning: upload of sft/checkpoints/step-000002 to trouble://") == 1
    assert "503 slow down" in said
    assert not any(name.endswith(MANIFEST) for name in list_names(uploader.url))
    url, missing = list_missing(stage)
    assert (url, missing) == (
        uploader.url, {"sft/checkpoints/step-000002": "503 slow down"}
    )  # fmt: skip


def test_a_place_that_hangs_neither_holds_the_run_nor_its_end(stage, trouble, capsys):
    trouble.gate.clear()
    uploader = start(f"trouble://{uuid.uuid4().hex}", stage)
    first = save(stage, 2)
    uploader.offer(first)
    wait_until(lambda: trouble.put)
    started = time.monotonic()
    uploader.offer(save(stage, 4))
    uploader.close(0.2)
    assert time.monotonic() - started < 5
    said = capsys.readouterr().err
    assert "2 folders still to be copied" in said
    assert said.count("not done within 0 s") == 2
    trouble.gate.set()


def test_a_newer_checkpoint_takes_the_place_of_one_that_waits(stage, trouble):
    trouble.gate.clear()
    uploader = start(f"trouble://{uuid.uuid4().hex}", stage)
    for step in (2, 4, 6):
        uploader.offer(save(stage, step))
        wait_until(lambda: trouble.put)
    assert uploader.held == {"step-000002", "step-000006"}
    trouble.gate.set()
    uploader.close(30)
    assert [name.rpartition("/")[2] for name in load_json(stage / RECORD)["uploaded"]] == [
        "step-000002", "step-000006"
    ]  # fmt: skip


def test_pruning_leaves_what_is_being_copied(stage, trouble):
    trouble.gate.clear()
    uploader = start(f"trouble://{uuid.uuid4().hex}", stage)
    uploader.offer(save(stage, 2))
    wait_until(lambda: trouble.put)
    for step in (4, 6):
        save(stage, step)
        prune_checkpoints(stage / "checkpoints", step=step, keep_last=1, held=uploader.held)
    names = {path.name for path in (stage / "checkpoints").glob("step-*")}
    assert names == {"step-000002", "step-000006"}
    trouble.gate.set()
    uploader.close(30)
    assert list_missing(stage)[1] == {"sft/checkpoints/step-000006": "not begun"}


def test_a_checkpoint_that_vanishes_is_given_up_without_waiting(stage, trouble, capsys):
    gone = save(stage, 2)
    shutil.rmtree(gone)
    uploader = start(f"trouble://{uuid.uuid4().hex}", stage, pauses=(1000,))
    uploader.offer(gone)
    uploader.close(30)
    assert "step-000002" in capsys.readouterr().err


def test_a_later_attempt_knows_what_is_there_and_copies_what_has_changed(stage, bucket):
    folder = save(stage, 2)
    first = start(bucket, stage)
    first.offer(folder)
    first.close(30)
    second = start(bucket, stage)
    assert second.has(folder)
    (folder / "weights.bin").write_bytes(b"other")
    with write_checkpoint(stage / "checkpoints", 2, {"again": 1}) as again:
        (again / "weights.bin").write_bytes(b"other")
    second.offer(folder)
    second.close(30)
    system, base = fsspec.core.url_to_fs(bucket)
    assert system.cat_file(f"{base}/sft/checkpoints/step-000002/weights.bin") == b"other"
    assert not start("memory://elsewhere", stage).has(folder)


def test_a_missing_package_and_an_unknown_place_are_told_at_once():
    check_upload("memory://a")
    check_upload("/some/folder")
    with pytest.raises(ConfigError, match="`nowhere` is no kind of place"):
        check_upload("nowhere://a/b")
    with pytest.raises(MissingExtraError, match=r"upload_to: s3://a/b: .*; pip install s3fs"):
        check_upload("s3://a/b")
