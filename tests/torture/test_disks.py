"""Disks that are full or turn read-only while a run works."""

import contextlib
import subprocess
import time

import pytest

from tests.torture.conftest import Place, is_root

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_root(), reason="needs root, to mount a small disk"),
]


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, option):
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def test_a_full_disk_costs_checkpoints_and_not_the_run(unbroken, cache_dir, tmp_path, note):
    """There is room for the log and for no checkpoint; then there is."""
    place = Place(tmp_path, cache=cache_dir)
    command = ("train", "small.yaml", "tuning=full")
    with small_disk(place.folder / "runs", "3m"):
        full = place.finish(*command)
        assert full.returncode == 1, full.stderr
        assert "Traceback" not in full.stderr
        assert full.stderr.count("no checkpoint: cannot write") == 20
        assert "error: cannot write " in full.stderr.splitlines()[-1]
        assert "step 60/60" in full.stderr
        remount(place.folder / "runs", "size=400m")
        again = place.finish(*command)
        assert again.returncode == 0, again.stderr
        assert place.weights() == unbroken("full")[0]
    note("a full disk")


def test_a_disk_that_fills_up_keeps_the_older_checkpoint(unbroken, cache_dir, tmp_path, note):
    place = Place(tmp_path, cache=cache_dir)
    command = ("train", "small.yaml", "tuning=full")
    with small_disk(place.folder / "runs", "200m"):
        process = place.start(*command)
        process.wait_for("step 7/60")
        filler = place.folder / "runs/filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(2**16))
        process.wait_for("no checkpoint: cannot write")
        time.sleep(0.2)
        filler.unlink()
        done = process.wait(240)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert place.weights() == unbroken("full")[0]
        assert place.finish("verify", "runs/small").returncode == 0
    note("a disk that fills up")


def test_folders_that_turn_read_only(unbroken, cache_dir, tmp_path, note):
    place = Place(tmp_path, cache=cache_dir)
    command = ("train", "small.yaml", "tuning=full")
    process = place.start(*command)
    process.wait_for("step 7/60")
    folders = [str(place.stage), str(place.stage / "checkpoints")]
    if subprocess.run(["chattr", "+i", *folders], check=False).returncode:
        process.end()
        pytest.skip("this file system has no such mark")
    try:
        done = process.wait(240)
    finally:
        subprocess.run(["chattr", "-i", *folders], check=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "step 60/60" in done.stderr
    assert done.stderr.count("no checkpoint: cannot write") >= 17
    again = place.finish(*command)
    assert again.returncode == 0, again.stderr
    assert place.weights() == unbroken("full")[0]
    note("folders that turn read-only")
