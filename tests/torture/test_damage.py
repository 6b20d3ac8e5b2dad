"""Forty ways to damage a checkpoint: each is found and named, and the older one is taken."""

import json
import os
import random
import shutil

import pytest

from posttrain.checkpoints import MANIFEST, find_checkpoint, load_manifest
from posttrain.errors import VerificationError
from posttrain.runs.verify import verify_folder
from tests.torture.conftest import Place, wants_all

pytestmark = pytest.mark.slow

SETTINGS = ("tuning=lora", "stages.sft.steps=9", "stages.sft.keep_last=3")
OLDER, NEWEST = "step-000006", "step-000009"
FILES = (
    "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
    "trainer_state.json",
)  # fmt: skip


def rewrite(path, content):
    path.unlink()  # the copies of a run share their files
    path.write_bytes(content)


def change(path, edit):
    rewrite(path, edit(path.read_bytes()))


def flip(content):
    place = random.Random(len(content)).randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_link(path, target):
    path.unlink()
    path.symlink_to(target)


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


EACH = {
    "truncated": lambda p: change(p, lambda c: c[: len(c) // 2]),
    "a flipped bit": lambda p: change(p, flip),
    "zeroed": lambda p: change(p, lambda c: bytes(len(c))),
    "extra bytes": lambda p: change(p, lambda c: c + b"more"),
    "emptied": lambda p: rewrite(p, b""),
    "missing": lambda p: p.unlink(),
}


def edit_manifest(folder, edit):
    manifest = load_manifest(folder)
    edit(manifest)
    rewrite(folder / MANIFEST, json.dumps(manifest).encode())


def swap(folder):
    one, other = (folder / name for name in FILES[1:3])
    contents = one.read_bytes(), other.read_bytes()
    rewrite(one, contents[1])
    rewrite(other, contents[0])


def rename_older(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("step-000003"), folder)


def copy_from_older(folder, name):
    rewrite(folder / name, (folder.with_name(OLDER) / name).read_bytes())


WHOLE = {
    "manifest missing": lambda f: (f / MANIFEST).unlink(),
    "manifest empty": lambda f: rewrite(f / MANIFEST, b""),
    "manifest cut": lambda f: change(f / MANIFEST, lambda c: c[: len(c) // 2]),
    "manifest a list": lambda f: rewrite(f / MANIFEST, b"[]"),
    "manifest of another step": lambda f: copy_from_older(f, MANIFEST),
    "manifest lists nothing": lambda f: edit_manifest(f, lambda m: m.update(files={})),
    "manifest lists a file outside": lambda f: edit_manifest(
        f, lambda m: m["files"].update({"../../../config.json": m["files"][FILES[0]]})
    ),
    "manifest of another run": lambda f: edit_manifest(f, lambda m: m.update(run="0" * 64)),
    "manifest a loop of links": lambda f: as_link(f / MANIFEST, MANIFEST),
    "weights of another step": lambda f: copy_from_older(f, FILES[0]),
    "optimizer of another step": lambda f: copy_from_older(f, FILES[1]),
    "two files swapped": swap,
    "an older one under its name": rename_older,
    "weights a folder": lambda f: as_folder(f / FILES[0]),
    "weights a loop of links": lambda f: as_link(f / FILES[0], FILES[0]),
    "weights a pipe": lambda f: as_pipe(f / FILES[0]),
}
DAMAGES = {
    **{f"{name} {how}": (name, act) for name in FILES for how, act in EACH.items()},
    **{how: (None, act) for how, act in WHOLE.items()},
}
SAMPLE = ("optimizer.pt a flipped bit", "an older one under its name")


def pytest_generate_tests(metafunc):
    if "damage" in metafunc.fixturenames:
        wanted = DAMAGES if wants_all(metafunc.config) else SAMPLE
        metafunc.parametrize("damage", wanted)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run with three checkpoints whose model is gone, and what the model was."""
    place = Place(tmp_path_factory.mktemp("finished"))
    done = place.finish("train", "small.yaml", *SETTINGS)
    assert done.returncode == 0, done.stderr
    weights = place.weights()
    shutil.rmtree(place.stage / "final")
    (place.stage / "stage.json").unlink()
    return place, weights


def test_damage_is_found_named_and_passed_over(damage, finished, tmp_path, note):
    whole, weights = finished
    place = Place(tmp_path, cache=whole.cache)
    shutil.copytree(whole.run, place.run, symlinks=True, copy_function=os.link)
    for path in (
        *place.stage.glob("*.jsonl"),
        *place.run.glob("*.log"),
        *place.stage.glob("*.log"),
    ):
        change(path, bytes)  # these are appended to, and shared otherwise
    name, act = DAMAGES[damage]
    newest = place.stage / "checkpoints" / NEWEST
    act(newest / name if name else newest)
    run = load_manifest(newest.with_name(OLDER))["run"]
    found = find_checkpoint(newest.parent, run)
    assert found.path.name == OLDER
    assert [line.partition(":")[0] for line in found.skipped] == [NEWEST]
    if damage != "manifest of another run":  # whole, and no business of this run
        with pytest.raises(VerificationError, match=NEWEST):
            verify_folder(newest.parent)
    again = place.finish("train", "small.yaml", *SETTINGS)
    assert again.returncode == 0, again.stderr
    assert f"checkpoint passed over: {found.skipped[0]}" in again.stderr
    assert f"going on from step {int(OLDER[5:])} of" in again.stderr
    assert place.weights() == weights
    verify_folder(place.run)
    note("damaged checkpoint")


def test_a_copy_under_a_later_name_is_not_taken(finished, tmp_path, note):
    whole, _ = finished
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(whole.stage / "checkpoints", checkpoints, symlinks=True)
    shutil.copytree(checkpoints / OLDER, checkpoints / "step-000099")
    found = find_checkpoint(checkpoints, load_manifest(checkpoints / OLDER)["run"])
    assert found.path.name == NEWEST
    assert found.skipped == ("step-000099: MANIFEST.json is of step 6",)
    note("damaged checkpoint")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_file_that_may_not_be_read_is_damage(finished, tmp_path, note):
    whole, _ = finished
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(whole.stage / "checkpoints", checkpoints, symlinks=True)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder.name:
            folder.chmod(folder.stat().st_mode | 0o711)
    (checkpoints / NEWEST / FILES[0]).chmod(0)
    os.seteuid(65534)
    try:
        found = find_checkpoint(checkpoints, load_manifest(checkpoints / OLDER)["run"])
    finally:
        os.seteuid(0)
    assert found.path.name == OLDER
    assert found.skipped == (f"{NEWEST}: {FILES[0]} cannot be read: Permission denied",)
    note("damaged checkpoint")
