import json
import math

import pytest

from posttrain.config.tracking import TrackingConfig
from posttrain.tracking import MetricsRecorder, open_recorder
from tests.stages.faults import full_disk
from tests.trackers import read_tensorboard


def read_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_board(folder, name):
    return {step: values[name] for step, values in read_tensorboard(folder).items()}


def record(folder, steps, *, from_step=0, base=0.0):
    config = TrackingConfig()
    with open_recorder(config, folder, from_step=from_step, name="a/b", settings={}) as recorder:
        for step in steps:
            recorder.record(step, {"loss": base + step, "accuracy": step / 10})


def test_lines_and_tensorboard_hold_the_same_numbers(tmp_path):
    record(tmp_path, [1, 2, 3])
    assert read_lines(tmp_path)[1] == {"step": 2, "loss": 2.0, "accuracy": 0.2}
    assert read_board(tmp_path, "loss") == {1: 1.0, 2: 2.0, 3: 3.0}
    assert read_board(tmp_path, "accuracy") == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3})


@pytest.mark.parametrize("resume", [0, 2, 4])
def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path, resume):
    record(tmp_path, [1, 2, 3, 4, 5])
    again = range(resume + 1, 7)
    record(tmp_path, again, from_step=resume, base=100.0)
    expected = {s: float(s) for s in range(1, resume + 1)} | {s: 100.0 + s for s in again}
    assert {row["step"]: row["loss"] for row in read_lines(tmp_path)} == expected
    assert len(read_lines(tmp_path)) == 6
    assert read_board(tmp_path, "loss") == expected


def test_half_a_last_line_of_a_killed_run_is_dropped(tmp_path):
    record(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    record(tmp_path, [3], from_step=2)
    assert [row["step"] for row in read_lines(tmp_path)] == [1, 2, 3]


def test_a_line_is_readable_as_soon_as_it_is_recorded(tmp_path):
    with MetricsRecorder(tmp_path) as recorder:
        recorder.record(1, {"loss": 1.5})
        assert read_lines(tmp_path) == [{"step": 1, "loss": 1.5}]


def test_a_loss_that_is_not_a_number_stays_visible(tmp_path):
    with MetricsRecorder(tmp_path) as recorder:
        recorder.record(1, {"loss": math.nan})
    assert math.isnan(read_lines(tmp_path)[0]["loss"])


def test_a_full_disk_stops_nothing_and_its_lines_are_written_when_there_is_room(tmp_path, capsys):
    """The second line is cut in its middle, the third is refused whole."""
    with MetricsRecorder(tmp_path) as recorder:
        recorder.record(1, {"loss": 1.0})
        with full_disk((tmp_path / "metrics.jsonl").stat().st_size + 5):
            recorder.record(2, {"loss": 2.0})
            recorder.record(3, {"loss": 3.0})
            assert len((tmp_path / "metrics.jsonl").read_text().splitlines()[1]) == 5
        recorder.record(4, {"loss": 4.0})
    assert [(row["step"], row["loss"]) for row in read_lines(tmp_path)] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)
    ]  # fmt: skip
    spoken = capsys.readouterr().err
    assert spoken.count("warning: cannot write") == 1
    assert "are lost" not in spoken


def test_lines_that_never_found_room_are_counted(tmp_path, capsys):
    with full_disk(0), MetricsRecorder(tmp_path) as recorder:
        recorder.record(1, {"loss": 1.0})
        recorder.record(2, {"loss": 2.0})
    assert "2 lines could not be written and are lost" in capsys.readouterr().err


def test_a_full_disk_ends_tensorboard_and_not_the_run(tmp_path, capsys):
    config = TrackingConfig(tensorboard=True)
    about = {"from_step": 0, "name": "demo/sft", "settings": {}}
    with full_disk(0), open_recorder(config, tmp_path, **about) as recorder:
        for step in range(1, 4):
            recorder.record(step, {"loss": 1.0})
    spoken = capsys.readouterr().err
    assert spoken.count("warning: tensorboard: ") == 1
    assert "Traceback" not in spoken
