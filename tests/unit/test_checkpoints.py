import json
import shutil

import pytest

from posttrain.checkpoints import (
    MANIFEST,
    check_intact,
    find_checkpoint,
    find_damage,
    list_checkpoints,
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
    for step in range(1, 7):
        save(tmp_path, step)
    (tmp_path / ".step-000003.killed").mkdir()
    prune_checkpoints(tmp_path, step=6, keep_last=2, best_step=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best", "last", "step-000003", "step-000005", "step-000006"]
    assert (tmp_path / "best").readlink().as_posix() == "step-000003"


def test_pruning_never_keeps_a_damaged_later_one_instead_of_the_one_just_written(tmp_path):
    for step in (2, 4):
        save(tmp_path, step)
    (tmp_path / "step-000004" / "weights.bin").unlink()
    assert find_checkpoint(tmp_path).step == 2
    save(tmp_path, 3)
    prune_checkpoints(tmp_path, step=3, keep_last=1, best_step=None)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3]
    assert find_damage(tmp_path / "last") is None


def test_a_best_link_to_nothing_is_taken_away(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    prune_checkpoints(tmp_path, step=2, keep_last=2, best_step=1)
    shutil.rmtree(tmp_path / "step-000001")
    prune_checkpoints(tmp_path, step=2, keep_last=2, best_step=1)
    assert not (tmp_path / "best").is_symlink()
    prune_checkpoints(tmp_path, step=2, keep_last=2, best_step=None)


def test_a_manifest_does_not_list_itself(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"1")
    write_manifest(tmp_path, {})
    write_manifest(tmp_path, {"again": True})
    assert find_damage(tmp_path) is None
