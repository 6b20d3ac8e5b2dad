"""What trackers have kept of a run, read back from their own files: step -> name -> value."""

import json
import struct
import time

import pytest


def read_log(path):
    """Records of a LevelDB log, in which wandb writes (magic ``:W&B``); its reader is Go."""
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


def find_wandb_runs(folder):
    """Every run found: its id, name, exit status, and values by step."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    runs = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        found = {"id": None, "name": None, "exit": None, "lines": {}}
        deadline = time.time() + 20
        records = []
        # wandb's own process writes the end of its file a moment after finish() has returned.
        while not any(r.WhichOneof("record_type") == "exit" for r in records):
            assert time.time() < deadline, f"{path}: never ended"
            time.sleep(0.05)
            records = [pb.Record.FromString(data) for data in read_log(path)]
        for record in records:
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found |= {"id": record.run.run_id, "name": record.run.display_name}
            if kind == "exit":
                found["exit"] = record.exit.exit_code
            if kind == "history":
                values = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                found["lines"][record.history.step.num] = values
        runs.append(found)
    return sorted(runs, key=lambda run: min(run["lines"], default=0))


def read_wandb(folder):
    lines = {}
    for run in find_wandb_runs(folder):
        for step, values in run["lines"].items():
            lines[step] = {k: v for k, v in values.items() if not k.startswith("_")}
    return lines


def read_swanlab(folder):
    """With SwanLab's own reader, as ``swanlab sync`` does."""
    store = pytest.importorskip("swanlab.sdk.internal.core_python.store")
    record = pytest.importorskip("swanlab.proto.swanlab.record.v1.record_pb2").Record
    lines = {}
    for path in sorted(folder.glob("swanlab/run-*/run-*.swanlab")):
        reader = store.DataStoreReader()
        reader.open(path)
        for data in reader:
            scalar = record.FromString(data).scalar
            if scalar.key:
                lines.setdefault(scalar.step, {})[scalar.key] = scalar.value.number
        reader.close()
    return lines


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    lines = {}
    for name in board.Tags()["scalars"]:
        for event in board.Scalars(name):
            lines.setdefault(event.step, {})[name] = event.value
    return lines


def find_mlflow_runs(path, experiment="posttrain"):
    """MLflow's client on a SQLite file, and the runs of an experiment."""
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{path}")
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id])


def read_mlflow(folder):
    client, runs = find_mlflow_runs(folder / "mlflow.db")
    lines = {}
    for run in runs:
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                lines.setdefault(metric.step, {})[name] = metric.value
    return lines


READERS = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "swanlab": read_swanlab,
    "mlflow": read_mlflow,
}
