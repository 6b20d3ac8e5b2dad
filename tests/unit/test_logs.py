import re

import pytest

from posttrain.errors import PosttrainError
from posttrain.logs import Progress, format_bytes, format_duration, log_file, say, show
from tests.stages.faults import full_disk


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_duration_is_said_as_people_say_it(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (2**41, "2048.0 GiB"),
    ],
)
def test_size_is_in_the_largest_fitting_unit(size_bytes, text):
    assert format_bytes(size_bytes) == text


def test_results_and_progress_go_to_their_own_streams(capsys):
    say("working")
    show("42")

    assert capsys.readouterr() == ("42\n", "working\n")


def test_time_left_is_told_once_a_tenth_is_done(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("posttrain.logs.time.perf_counter", lambda: clock[0])
    progress = Progress("gsm8k", 100, "answers")
    for seconds, done in ((6, 1), (12, 60)):
        clock[0] = seconds
        progress.update(done)
    assert capsys.readouterr().err.splitlines() == [
        "gsm8k: 1 of 100 answers, 0.2 answers/s",
        "gsm8k: 60 of 100 answers, 5.0 answers/s, 8 s left",
    ]


def test_all_that_is_said_inside_the_block_is_in_the_file(tmp_path, capsys):
    path = tmp_path / "deep" / "train.log"
    say("before")
    with log_file(path):
        say("one\ntwo")
        show("three")
    with log_file(path):
        say("four")
    say("after")

    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [re.sub(f"^{stamp}", "", line) for line in lines] == ["one", "two", "three", "four"]
    assert capsys.readouterr().err == "before\none\ntwo\nfour\nafter\n"


def test_file_is_let_go_when_the_block_fails(tmp_path):
    with pytest.raises(RuntimeError), log_file(tmp_path / "a.log"):
        raise RuntimeError
    say("later")

    assert (tmp_path / "a.log").read_text() == ""


def test_a_log_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(PosttrainError, match=r"cannot write .*train\.log"),
        log_file(tmp_path / "file" / "train.log"),
    ):
        pass


def test_a_log_without_room_is_given_up_in_one_line_and_the_work_goes_on(tmp_path, capsys):
    path = tmp_path / "train.log"
    with log_file(path):
        say("before")
        with full_disk(path.stat().st_size):
            say("lost in the file")
            say("lost too")
        say("after")
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if not line.startswith("warning")] == [
        "before", "lost in the file", "lost too", "after"
    ]  # fmt: skip
    assert sum("cannot write" in line and "train.log" in line for line in said) == 1
    assert path.read_text().splitlines()[0].endswith("before")
