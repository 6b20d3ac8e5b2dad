"""Services that are told of the metrics: their own files are read back, and none may stop a run."""

import json
import os
import socket
import threading
import time

import pytest

from posttrain.config.tracking import TrackingConfig
from posttrain.errors import ConfigError, MissingExtraError
from posttrain.tracking import check_trackers, open_recorder
from posttrain.tracking.background import BackgroundTracker
from tests.trackers import READERS, find_mlflow_runs, find_wandb_runs

SETTINGS = {"learning_rate": 1e-3, "data": {"join": True}}


def record(folder, tracking, steps, from_step=0):
    config = TrackingConfig.model_validate(tracking)
    check_trackers(config)
    with open_recorder(
        config, folder, from_step=from_step, name="small/sft", settings=SETTINGS
    ) as recorder:
        for step in steps:
            recorder.record(step, {"loss": 1.0 / step, "learning_rate": 1e-3})


def read_metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row.pop("step"): row for row in rows}


@pytest.mark.parametrize("service", READERS)
def test_a_service_holds_the_numbers_of_metrics_jsonl(tmp_path, service, capfd):
    record(tmp_path, [service], [1, 2, 3])
    assert read_metrics(tmp_path)[3] == {"loss": 1 / 3, "learning_rate": 1e-3}
    found = READERS[service](tmp_path)
    for step, values in read_metrics(tmp_path).items():
        # TensorBoard keeps 32 bits.
        assert found.pop(step) == pytest.approx(values, rel=1e-7 if service == "tensorboard" else 0)
    assert found == {}
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("service", READERS)
def test_a_resumed_stage_goes_on_with_the_same_lines(tmp_path, service):
    record(tmp_path, [service], [1, 2, 3])
    time.sleep(1.1)  # wandb and SwanLab name their folders by the second
    record(tmp_path, [service], [4, 5], from_step=3)
    found = READERS[service](tmp_path)
    assert sorted(found) == [1, 2, 3, 4, 5]
    assert found[5]["loss"] == pytest.approx(0.2)


def test_wandb_knows_name_project_and_that_a_resumed_run_is_the_same(tmp_path):
    pytest.importorskip("wandb")
    record(tmp_path, {"wandb": {"project": "own"}}, [1, 2])
    time.sleep(1.1)
    record(tmp_path, {"wandb": {"project": "own"}}, [3, 4], from_step=2)
    first, second = find_wandb_runs(tmp_path)
    assert first["name"] == "small/sft"
    assert (
        first["id"] == second["id"] == json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    )
    assert sorted(first["lines"]) == [1, 2]
    assert sorted(second["lines"]) == [3, 4]


def test_mlflow_keeps_one_run_with_its_settings_for_all_attempts(tmp_path):
    pytest.importorskip("mlflow")
    record(tmp_path, {"mlflow": {"experiment": "own"}}, [1, 2])
    record(tmp_path, {"mlflow": {"experiment": "own"}}, [3], from_step=2)
    _, (run,) = find_mlflow_runs(tmp_path / "mlflow.db", "own")
    assert run.info.run_name == "small/sft"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"learning_rate": "0.001", "data.join": "True"}
    tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.runName"}
    assert tags == {
        "posttrain.run": json.loads((tmp_path / "trackers.json").read_text())["mlflow"],
        "mlflow.user": "posttrain",
    }


def test_mlflow_runs_share_a_file_where_asked_to(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    shared = tmp_path / "all.db"
    record(tmp_path / "a", {"mlflow": {"uri": f"sqlite:///{shared}"}}, [1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    record(tmp_path / "b", {"mlflow": {}}, [1, 2])
    _, runs = find_mlflow_runs(shared)
    assert len(runs) == 2
    assert not list(tmp_path.glob("*/mlflow.db"))


def test_mlflow_sends_no_usage_figures():
    pytest.importorskip("mlflow")
    check_trackers(TrackingConfig.model_validate(["mlflow"]))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_run_that_fails_is_shown_as_failed(tmp_path, service):
    pytest.importorskip(service)
    with pytest.raises(ZeroDivisionError):
        record(tmp_path, [service], [1, 0])
    if service == "wandb":
        assert find_wandb_runs(tmp_path)[0]["exit"] == 1
    else:
        assert find_mlflow_runs(tmp_path / "mlflow.db")[1][0].info.status == "FAILED"


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

    def finish(self, *, failed):
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
    monkeypatch.setattr("posttrain.tracking.background.START_SECONDS", 2)
    monkeypatch.setattr("posttrain.tracking.background.FINISH_SECONDS", 2)
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


@pytest.mark.parametrize(
    ("module", "service"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("sqlalchemy", "mlflow")]
)
def test_a_missing_package_names_its_extra(monkeypatch, module, service):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'posttrain\[{service}\]'"):
        check_trackers(TrackingConfig.model_validate([service]))


@pytest.mark.parametrize(
    ("service", "variable"),
    [
        ("wandb", "WANDB_API_KEY"),
        ("swanlab", "SWANLAB_API_KEY"),
        ("mlflow", "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_a_key_in_a_recipe_is_refused_and_not_repeated(service, variable):
    with pytest.raises(ValueError, match=variable) as caught:
        TrackingConfig.model_validate({service: {"api_key": "s3cret"}})
    assert "s3cret" not in str(caught.value.errors()[0]["msg"])
