"""What the examination of the machine says, on a machine where the tests run at all."""

import importlib.metadata
import re

import torch

from posttrain.models.attention import BACK_ENDS
from posttrain.runs.doctor import examine_machine


def test_every_back_end_is_run_and_compared_with_the_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("POSTTRAIN_RUNS", str(tmp_path / "runs"))
    text, healthy = examine_machine()

    verdicts = dict(re.findall(r"^attention +(\w+): (.*)$", text, flags=re.MULTILINE))
    assert verdicts.keys() == set(BACK_ENDS)
    assert verdicts["eager"].startswith("works")
    assert verdicts["sdpa"].startswith("works")
    if not torch.cuda.is_available():
        assert verdicts["flex"] == "has no backward pass on a CPU"
        assert "auto takes sdpa" in text
    # A full disk is a problem as well, and no fault of the program.
    assert healthy == ("problem: " not in text) == ("all that is needed works" in text)
    assert str(tmp_path / "runs") in text


def test_a_place_that_cannot_be_used_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_RUNS", "/proc/runs")
    text, healthy = examine_machine()

    assert not healthy
    assert re.search(r"^problem: .*/proc", text, flags=re.MULTILINE)


def test_every_extra_is_listed_with_what_is_installed_of_it(monkeypatch):
    extras = importlib.metadata.metadata("posttrain").get_all("Provides-Extra")
    real = importlib.metadata.version

    def version(name):
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    text, _ = examine_machine()
    found = dict(re.findall(r"^optional +(\w+): (.*)$", text, flags=re.MULTILINE))
    assert found.keys() == set(extras)
    assert re.match(r"pip install 'posttrain\[sweep\]' \(missing: optuna", found["sweep"])
    assert re.match(r"installed \(pyarrow \d", found["parquet"])
