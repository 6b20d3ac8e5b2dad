import pytest

from posttrain.checkpoints import MANIFEST, write_checkpoint, write_manifest
from posttrain.errors import CheckpointError, VerificationError
from posttrain.files import replace_link, write_json
from posttrain.runs.verify import verify_folder
from posttrain.uploads import RECORD


@pytest.fixture
def run(tmp_path):
    """A run of one finished stage with two checkpoints, and an exported model beside it."""
    stage = tmp_path / "runs/demo/sft"
    stage.mkdir(parents=True)
    (stage / "started.json").write_text("{}")
    for step in (2, 4):
        with write_checkpoint(stage / "checkpoints", step, {}) as folder:
            (folder / "weights.bin").write_bytes(b"weights")
            (folder / "state").mkdir()
            (folder / "state" / "optimizer.bin").write_bytes(b"moments")
    for name in ("runs/demo/sft/final", "runs/demo/merge/model"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"model")
        write_manifest(folder, {})
    return tmp_path / "runs/demo"


def test_all_that_has_a_manifest_is_read_and_described(run, capsys):
    verify_folder(run)
    lines = capsys.readouterr().out.splitlines()
    names = ["merge/model", "sft/checkpoints/step-000002", "sft/checkpoints/step-000004",
             "sft/final"]  # fmt: skip
    assert [line.partition(":")[0] for line in lines] == [str(run / name) for name in names]
    assert lines[2].endswith("step 4, 2 files, 14 B, all as written")
    verify_folder(run / "sft/checkpoints/last")
    assert capsys.readouterr().out.splitlines()[0].endswith("all as written")


def test_every_damaged_file_is_named_and_the_exit_status_is_7(run, capsys):
    step = run / "sft/checkpoints/step-000002"
    (step / "weights.bin").write_bytes(b"weightx")
    (step / "state" / "optimizer.bin").unlink()
    (run / "merge/model/model.safetensors").write_bytes(b"")
    with pytest.raises(VerificationError, match=r"\(and 2 more, above\)") as caught:
        verify_folder(run)
    assert caught.value.exit_code == 7
    said = capsys.readouterr().out + str(caught.value)
    assert said.count("model.safetensors has 0 bytes") == 1
    assert f"{step}: weights.bin has changed since it was written" in said
    assert f"{step}: state/optimizer.bin is missing" in said
    assert "model.safetensors has 0 bytes instead of 5" in said


@pytest.mark.parametrize("place", ["sft/checkpoints/step-000004", "sft/final"])
def test_a_lost_manifest_is_damage(run, place):
    (run / place / MANIFEST).unlink()
    with pytest.raises(VerificationError, match="no MANIFEST"):
        verify_folder(run)


def test_a_link_to_nothing_is_damage(run):
    replace_link(run / "sft/checkpoints/best", "step-000009")
    with pytest.raises(VerificationError, match="best: points to step-000009, which is not there"):
        verify_folder(run)


def test_what_a_killed_writer_left_is_no_part_of_the_run(run):
    left = run / "sft/checkpoints/.step-000006.abc"
    left.mkdir()
    (left / MANIFEST).write_text("half")
    verify_folder(run)


def test_what_was_not_copied_is_told(run, capsys):
    record = {"url": "s3://b/demo", "uploaded": ["sft/final", "sft/checkpoints/step-000002"],
              "failed": {"sft/checkpoints/step-000004": "no route"}}  # fmt: skip
    write_json(run / "sft" / RECORD, record)
    verify_folder(run)
    said = capsys.readouterr().out
    assert f"{run}/sft/checkpoints/step-000004: not at s3://b/demo: no route" in said
    assert said.count("not at s3") == 1


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        verify_folder(tmp_path / "nowhere")


def test_a_folder_without_anything_of_ours_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no MANIFEST"):
        verify_folder(tmp_path)
    with pytest.raises(CheckpointError):
        verify_folder(tmp_path / "absent")
