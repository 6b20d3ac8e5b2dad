import json
import math
import os
import shutil

import pytest

from posttrain.checkpoints import (
    MANIFEST,
    Ranking,
    check_intact,
    find_checkpoint,
    find_damage,
    list_checkpoints,
    list_damage,
    note_validation,
    prune_checkpoints,
    write_checkpoint,
    write_manifest,
)
from posttrain.errors import CheckpointError


def save(root, step, **details):
    with write_checkpoint(root, step, details) as folder:
        (folder / "weights.bin").write_bytes(bytes(range(256)) * 4 + b"%d" % step)
        (folder / "state").mkdir()
        (folder / "state" / "optimizer.bin").write_bytes(b"moments of step %d" % step)
        (folder / "state.json").write_text(json.dumps({"step": step}))
    return root / f"step-{step:06d}"


def fail_to_save(root, step, error):
    with write_checkpoint(root, step, {}) as folder:
        (folder / "weights.bin").write_bytes(b"half")
        raise error


def rewrite(folder, change):
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def swap(first, second):
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_loop(path):
    path.unlink()
    path.symlink_to(path.name)


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


LOSS = Ranking("loss", higher_is_better=False)
DAMAGES = {
    "truncated": lambda f: (f / "weights.bin").write_bytes((f / "weights.bin").read_bytes()[:-1]),
    "emptied": lambda f: (f / "weights.bin").write_bytes(b""),
    "longer": lambda f: (f / "weights.bin").write_bytes((f / "weights.bin").read_bytes() + b"x"),
    "first byte": lambda f: flip(f / "weights.bin", 0),
    "last byte": lambda f: flip(f / "weights.bin", -1),
    "byte of a file below": lambda f: flip(f / "state" / "optimizer.bin", 3),
    "missing file": lambda f: (f / "weights.bin").unlink(),
    "missing folder": lambda f: shutil.rmtree(f / "state"),
    "folder instead of a file": lambda f: as_folder(f / "weights.bin"),
    "swapped files": lambda f: swap(f / "weights.bin", f / "state.json"),
    "file of another step": lambda f: (f / "state.json").write_text('{"step": 9}'),
    "no manifest": lambda f: (f / MANIFEST).unlink(),
    "empty manifest": lambda f: (f / MANIFEST).write_text(""),
    "half a manifest": lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text()[:70]),
    "manifest is a folder": lambda f: as_folder(f / MANIFEST),
    "manifest not UTF-8": lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe{}"),
    "manifest of another shape": lambda f: (f / MANIFEST).write_text("[1, 2]"),
    "files of another shape": lambda f: rewrite(f, lambda m: m.update(files=["weights.bin"])),
    "manifest of another step": lambda f: rewrite(f, lambda m: m.update(step=9)),
    "manifest is a loop of links": lambda f: as_loop(f / MANIFEST),
    "manifest is a pipe": lambda f: as_pipe(f / MANIFEST),
    "file is a loop of links": lambda f: as_loop(f / "weights.bin"),
    "file is a pipe": lambda f: as_pipe(f / "weights.bin"),
    "zeros": lambda f: (f / "weights.bin").write_bytes(bytes(1025)),
    "a file outside": lambda f: rewrite(
        f, lambda m: m["files"].update({"../x": m["files"]["weights.bin"]})
    ),
    "no files listed": lambda f: rewrite(f, lambda m: m.update(files={})),
    "an entry without digest": lambda f: rewrite(
        f, lambda m: m["files"]["weights.bin"].pop("sha256")
    ),
    "an entry that is a number": lambda f: rewrite(
        f, lambda m: m["files"].update({"state.json": 3})
    ),
    "another digest": lambda f: rewrite(
        f, lambda m: m["files"]["weights.bin"].update(sha256="0" * 64)
    ),
}


def test_an_intact_checkpoint_lists_every_file_with_size_and_digest(tmp_path):
    folder = save(tmp_path, 3, world_size=2)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert find_damage(folder) is None
    check_intact(folder)
    assert (manifest["step"], manifest["world_size"]) == (3, 2)
    assert sorted(manifest["files"]) == ["state.json", "state/optimizer.bin", "weights.bin"]
    assert manifest["files"]["weights.bin"]["size_bytes"] == 1025
    assert len(manifest["files"]["weights.bin"]["sha256"]) == 64


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_said_in_one_line(tmp_path, damage):
    folder = save(tmp_path, 3)
    damage(folder)
    found = find_damage(folder)
    assert found
    assert "\n" not in found
    with pytest.raises(CheckpointError, match="use another one"):
        check_intact(folder)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_resume_takes_the_newest_intact_one_and_names_the_others(tmp_path, damage):
    for step in (2, 4, 6, 10):
        save(tmp_path, step)
    damage(tmp_path / "step-000006")
    damage(tmp_path / "step-000010")
    found = find_checkpoint(tmp_path)
    assert (found.step, found.path) == (4, tmp_path / "step-000004")
    assert [line.partition(":")[0] for line in found.skipped] == ["step-000010", "step-000006"]


def test_a_note_put_beside_the_files_is_no_damage(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "notes.txt").write_text("my best run")
    assert find_damage(folder) is None


def test_no_checkpoint_and_no_intact_one_are_told_apart(tmp_path):
    assert find_checkpoint(tmp_path / "absent").skipped == ()
    folder = save(tmp_path, 5)
    (folder / "weights.bin").unlink()
    found = find_checkpoint(tmp_path)
    assert (found.path, found.step, len(found.skipped)) == (None, 0, 1)


def test_steps_are_ordered_by_number_past_a_million(tmp_path):
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step)
    (tmp_path / "step-abc").mkdir()
    (tmp_path / "step-7").write_text("a file")
    assert [step for step, _ in list_checkpoints(tmp_path)] == [5, 999_999, 1_000_000]
    assert find_checkpoint(tmp_path).step == 1_000_000


def test_a_writer_that_fails_leaves_nothing_and_the_older_ones_stay(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(RuntimeError):
        fail_to_save(tmp_path, 2, RuntimeError("killed"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-000001"]
    assert find_damage(tmp_path / "last") is None


def test_a_writer_that_fails_does_not_harm_the_one_it_would_replace(tmp_path):
    folder = save(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        fail_to_save(tmp_path, 1, KeyboardInterrupt())
    assert find_damage(folder) is None


def test_writing_a_step_again_replaces_it(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "weights.bin").write_bytes(b"damaged")
    save(tmp_path, 1)
    assert find_damage(folder) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-000001"]


def test_last_points_beside_itself_at_the_newest(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    assert (tmp_path / "last").readlink().as_posix() == "step-000002"


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step, loss in zip(range(1, 7), (3.0, 2.0, 0.5, 0.5, 1.0, math.nan), strict=True):
        save(tmp_path, step, validation={"loss": loss})
    (tmp_path / ".step-000003.killed").mkdir()
    prune_checkpoints(tmp_path, step=6, keep_last=2, ranking=LOSS)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best", "last", "step-000003", "step-000005", "step-000006"]
    assert (tmp_path / "best").readlink().as_posix() == "step-000003"


def test_pruning_never_keeps_a_damaged_later_one_instead_of_the_one_just_written(tmp_path):
    for step in (2, 4):
        save(tmp_path, step)
    (tmp_path / "step-000004" / "weights.bin").unlink()
    assert find_checkpoint(tmp_path).step == 2
    save(tmp_path, 3)
    prune_checkpoints(tmp_path, step=3, keep_last=1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3]
    assert find_damage(tmp_path / "last") is None


def test_several_best_ones_are_kept_by_any_metric_and_linked_to_the_best(tmp_path):
    for step, accuracy in enumerate([0.1, 0.9, 0.7, 0.8, 0.2, 0.3], start=1):
        save(tmp_path, step, validation={"loss": step, "accuracy": accuracy})
    ranking = Ranking("accuracy", higher_is_better=True, count=2)
    prune_checkpoints(tmp_path, step=6, keep_last=1, ranking=ranking)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 4, 6]
    assert (tmp_path / "best").readlink().as_posix() == "step-000002"


def test_the_best_link_goes_with_the_last_measured_checkpoint(tmp_path):
    save(tmp_path, 1, validation={"loss": 1.0})
    save(tmp_path, 2)
    prune_checkpoints(tmp_path, step=2, keep_last=2, ranking=LOSS)
    assert (tmp_path / "best").is_symlink()
    shutil.rmtree(tmp_path / "step-000001")
    prune_checkpoints(tmp_path, step=2, keep_last=2, ranking=LOSS)
    assert not (tmp_path / "best").is_symlink()
    prune_checkpoints(tmp_path, step=2, keep_last=2)


def test_what_is_measured_later_is_told_of_an_intact_checkpoint(tmp_path):
    folder = save(tmp_path, 1)
    note_validation(folder, {"loss": 2.0})
    assert find_damage(folder) is None
    assert find_checkpoint(tmp_path).manifest["validation"] == {"loss": 2.0}


def test_nothing_is_deleted_when_the_one_just_written_is_damaged(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-000003" / "weights.bin").write_bytes(b"half")
    damage = prune_checkpoints(tmp_path, step=3, keep_last=1)
    assert damage == "weights.bin has 4 bytes instead of 1025"
    assert find_checkpoint(tmp_path).step == 2


def test_one_that_is_still_read_stays(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    prune_checkpoints(tmp_path, step=3, keep_last=1, held={"step-000001"})
    assert [step for step, _ in list_checkpoints(tmp_path)] == [1, 3]


def test_a_checkpoint_of_another_run_is_passed_over_and_named(tmp_path):
    save(tmp_path, 1, run="this")
    save(tmp_path, 2, run="another")
    save(tmp_path, 3)
    found = find_checkpoint(tmp_path, "this")
    assert found.step == 1
    assert all("written with other data, another model" in line for line in found.skipped)
    assert len(found.skipped) == 2


def test_every_damaged_file_is_listed(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "weights.bin").unlink()
    flip(folder / "state.json", 0)
    assert [line.split()[0] for line in list_damage(folder)] == ["state.json", "weights.bin"]


def test_a_manifest_does_not_list_itself(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"1")
    write_manifest(tmp_path, {})
    write_manifest(tmp_path, {"again": True})
    assert find_damage(tmp_path) is None
