"""What the examination of the machine says, on a machine where the tests run at all."""

import re

import torch

from posttrain.runs.doctor import examine_machine


def test_every_back_end_is_run_and_compared_with_the_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("POSTTRAIN_RUNS", str(tmp_path / "runs"))
    text, healthy = examine_machine()

    verdicts = dict(re.findall(r"^attention +(\w+): (.*?)(?: on |,)", text, flags=re.MULTILINE))
    assert verdicts["eager"] == verdicts["sdpa"] == "works"
    assert verdicts["flex"] == ("works" if torch.cuda.is_available() else "does not work")
    # A full disk is a problem as well, and no fault of the program.
    assert healthy == ("problem: " not in text) == ("all that is needed works" in text)
    assert str(tmp_path / "runs") in text


def test_a_place_that_cannot_be_used_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_RUNS", "/proc/runs")
    text, healthy = examine_machine()

    assert not healthy
    assert re.search(r"^problem: .*/proc", text, flags=re.MULTILINE)
