"""Services that are told of the metrics: their own files are read back, and none may stop a run."""

import json
import socket
import struct
import threading
import time

import pytest

from posttrain.config.tracking import TrackingConfig
from posttrain.errors import ConfigError, MissingExtraError
from posttrain.tracking import BackgroundTracker, check_trackers, open_recorder

SETTINGS = {"learning_rate": 1e-3}


def read_log(path):
    """Records of a LevelDB log, which both services write (wandb: magic ``:W&B``)."""
    data, place, whole, part = path.read_bytes(), 7, [], b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            whole.append(part)
            part = b""
    return whole


def read_wandb(folder):
    """Every run found: its id, name, and values by step."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        found = {"id": None, "name": None, "lines": {}}
        deadline = time.time() + 20
        records = []
        # wandb's own process writes the end of its file a moment after finish() has returned.
        while not any(r.WhichOneof("record_type") == "exit" for r in records):
            assert time.time() < deadline, f"{path}: never ended"
            time.sleep(0.05)
            records = [pb.Record.FromString(data) for data in read_log(path)]
        for record in records:
            if record.WhichOneof("record_type") == "run":
                found |= {"id": record.run.run_id, "name": record.run.display_name}
            if record.WhichOneof("record_type") == "history":
                values = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                found["lines"][record.history.step.num] = values
        runs.append(found)
    return sorted(runs, key=lambda run: min(run["lines"], default=0))


def record(folder, tracking, steps, from_step=0):
    config = TrackingConfig.model_validate(tracking)
    check_trackers(config)
    with open_recorder(
        config, folder, from_step=from_step, name="small/sft", settings=SETTINGS
    ) as recorder:
        for step in steps:
            recorder.record(step, {"loss": 1.0 / step, "learning_rate": 1e-3})


def test_wandb_offline_holds_the_same_numbers(tmp_path):
    pytest.importorskip("wandb")
    record(tmp_path, {"wandb": {"project": "own"}}, [1, 2, 3])
    (run,) = read_wandb(tmp_path)
    assert run["name"] == "small/sft"
    assert {step: line["loss"] for step, line in run["lines"].items()} == {1: 1.0, 2: 0.5, 3: 1 / 3}
    assert run["lines"][2]["learning_rate"] == 1e-3
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_resumed_stage_goes_on_with_the_same_wandb_run(tmp_path):
    pytest.importorskip("wandb")
    record(tmp_path, {"wandb": {}}, [1, 2])
    time.sleep(1.1)  # wandb names its folders by the second
    record(tmp_path, {"wandb": {}}, [3, 4], from_step=2)
    first, second = read_wandb(tmp_path)
    assert (
        first["id"] == second["id"] == json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    )
    assert sorted(first["lines"]) == [1, 2]
    assert sorted(second["lines"]) == [3, 4]


def read_swanlab(folder):
    """Loss by step of the newest run's log."""
    values = {}
    for path in sorted(folder.glob("swanlab/run-*/run-*.swanlab")):
        for data in read_log(path):
            values[path] = values.get(path, b"") + data
    return values


def test_swanlab_local_holds_the_same_numbers(tmp_path, capfd):
    pytest.importorskip("swanlab")
    pytest.importorskip("swanboard")
    record(tmp_path, {"swanlab": {"project": "own", "mode": "local"}}, [1, 2, 3])
    rows = {}
    for path in tmp_path.glob("swanlab/run-*/logs/*/*.log"):
        for row in map(json.loads, path.read_text().splitlines()):
            rows.setdefault(row["index"], set()).add(row["data"])
    assert rows == {1: {1.0, 1e-3}, 2: {0.5, 1e-3}, 3: {1 / 3, 1e-3}}
    assert capfd.readouterr().out == ""


def test_swanlab_offline_holds_the_numbers_under_its_run_id(tmp_path, capfd):
    pytest.importorskip("swanlab")
    record(tmp_path, {"swanlab": {}}, [1, 2, 3])
    ((path, data),) = read_swanlab(tmp_path).items()
    assert json.loads((tmp_path / "trackers.json").read_text())["swanlab"] in path.name
    assert struct.pack("<d", 1 / 3) in data
    assert struct.pack("<d", 0.5) in data
    assert b"learning_rate" in data
    assert capfd.readouterr().out == ""


def test_tensorboard_can_be_left_out(tmp_path):
    record(tmp_path, {"tensorboard": False}, [1])
    assert not (tmp_path / "tensorboard").exists()
    assert not (tmp_path / "trackers.json").exists()
    assert (tmp_path / "metrics.jsonl").is_file()


class Service:
    """Somebody else's tracker with a fault."""

    def __init__(self, *, fail=False, hang=None):
        self.fail, self.hang, self.lines = fail, hang, []

    def log(self, values, step):
        if self.hang:
            self.hang.wait()
        if self.fail:
            raise ValueError("out of service\nsecond line")
        self.lines.append((step, values))

    def finish(self):
        pass


def test_a_tracker_that_fails_is_one_warning(capsys):
    tracker = BackgroundTracker("example", lambda: Service(fail=True))
    for step in range(5):
        tracker.record(step, {"loss": 1.0})
    tracker.close()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        "warning: example: out of service; training goes on without it (metrics.jsonl)"
    ]


def test_a_tracker_that_cannot_start_is_one_warning(capsys):
    def start():
        raise SystemExit("no entry")

    tracker = BackgroundTracker("example", start)
    tracker.record(1, {"loss": 1.0})
    tracker.close()
    assert capsys.readouterr().err.count("warning: example: no entry") == 1


def test_a_tracker_that_hangs_holds_nothing_up(capsys):
    release = threading.Event()
    tracker = BackgroundTracker("example", lambda: Service(hang=release), wait_seconds=0.2)
    started = time.perf_counter()
    for step in range(20_000):
        tracker.record(step, {"loss": 1.0})
    tracker.close()
    assert time.perf_counter() - started < 5
    assert capsys.readouterr().err.count("warning: example") == 1
    release.set()


def test_lines_reach_a_tracker_in_order():
    service = Service()
    tracker = BackgroundTracker("example", lambda: service)
    for step in range(100):
        tracker.record(step, {"loss": float(step)})
    tracker.close()
    assert service.lines == [(step, {"loss": float(step)}) for step in range(100)]


def test_an_online_service_that_cannot_be_reached_does_not_stop_a_run(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("wandb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("posttrain.tracking._START_SECONDS", 2)
    monkeypatch.setattr("posttrain.tracking._FINISH_SECONDS", 2)
    started = time.perf_counter()
    record(tmp_path, {"wandb": {"mode": "online"}}, [1, 2])
    assert time.perf_counter() - started < 60
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    err = capsys.readouterr().err
    assert err.count("warning: wandb") == 1
    assert "0" * 40 not in err


@pytest.mark.parametrize(
    ("service", "mode", "variable"),
    [("wandb", "online", "WANDB_API_KEY"), ("swanlab", "cloud", "SWANLAB_API_KEY")],
)
def test_an_online_service_without_a_key_is_found_before_training(
    service, mode, variable, monkeypatch
):
    pytest.importorskip(service)
    monkeypatch.delenv(variable, raising=False)
    config = TrackingConfig.model_validate({service: {"mode": mode}})
    with pytest.raises(ConfigError, match=f"{variable} is not set; set it, or write mode: offline"):
        check_trackers(config)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'posttrain\[wandb\]'"):
        check_trackers(TrackingConfig.model_validate({"wandb": {}}))


@pytest.mark.parametrize("service", ["wandb", "swanlab"])
def test_a_key_in_a_recipe_is_refused_and_not_repeated(service):
    with pytest.raises(ValueError, match=f"{service.upper()}_API_KEY") as caught:
        TrackingConfig.model_validate({service: {"api_key": "s3cret"}})
    assert "s3cret" not in str(caught.value.errors()[0]["msg"])
