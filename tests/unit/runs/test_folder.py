import time

from posttrain.config.data import SampleDataStage
from posttrain.files import load_json
from posttrain.runs.folder import StageFolder

STAGE = SampleDataStage(stage="sample-data", kind="math", num=3)


def test_a_finished_stage_is_known_by_its_digest_and_keeps_its_settings(tmp_path):
    folder = StageFolder(tmp_path / "a", "one")
    assert folder.begin() is False
    assert folder.load_finished() is None
    folder.finish(STAGE, time.time(), {"summary": {}}, earlier_seconds=100.0)
    done = StageFolder(tmp_path / "a", "one").load_finished()
    assert done["settings"]["num"] == 3
    assert 100 <= done["seconds"] < 110
    assert StageFolder(tmp_path / "a", "two").load_finished() is None


def test_other_settings_move_the_older_result_aside(tmp_path):
    StageFolder(tmp_path / "a", "one").begin()
    (tmp_path / "a" / "result").write_text("old")
    assert StageFolder(tmp_path / "a", "two").begin() is False
    assert (tmp_path / "a.old-1" / "result").read_text() == "old"
    assert load_json(tmp_path / "a" / "started.json") == {"digest": "two"}


def test_going_on_removes_what_a_killed_writer_left(tmp_path):
    folder = StageFolder(tmp_path / "a", "one")
    folder.begin()
    (tmp_path / "a" / ".final.k2j4_abc").mkdir()
    (tmp_path / "a" / ".final.k2j4_abc" / "model.safetensors").write_text("half")
    (tmp_path / "a" / "task").mkdir()
    (tmp_path / "a" / "task" / ".records.jsonl.k2j4_abc").write_text("half")
    (tmp_path / "a" / "kept").write_text("whole")
    assert folder.begin() is True
    names = {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*")}
    assert names == {"started.json", "kept", "task"}
