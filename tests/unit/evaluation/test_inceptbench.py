import asyncio
import json
import sys
import threading
import time
from pathlib import Path

import pytest

from posttrain.config.items import InceptBenchConfig
from posttrain.errors import ConfigError, DataError, MissingExtraError, PosttrainError
from posttrain.evaluation import inceptbench
from posttrain.evaluation.inceptbench import find_judge, judge_items
from tests.unit.evaluation.fake_judge import KEY, FakeJudge

QUICK = {"retry_seconds": 0.01, "timeout_seconds": 20}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A judge, and an environment with its key and address and an empty cache."""
    judge = FakeJudge()
    monkeypatch.setenv("INCEPTBENCH_API_KEY", KEY)
    monkeypatch.setenv("INCEPTBENCH_BASE_URL", judge.address)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield judge
    judge.close()


def items(count):
    return [
        {
            "id": f"q{n}",
            "request": {"grade": "4", "type": "mcq"},
            "content": {"type": "mcq", "question": f"Which is {n}?", "answer": "A"},
        }
        for n in range(count)
    ]


def ask(rows, folder, **settings):
    return judge_items(rows, find_judge(), InceptBenchConfig(**{**QUICK, **settings}), folder)


def files_text(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_request_has_the_documented_shape(server, tmp_path):
    found = ask(items(1), tmp_path / "out")
    assert server.bodies == [{"generated_content": items(1)}]
    assert (found[0].score, found[0].judge_version, found[0].judge_rating) == (
        0.9, "2.1.0", "ACCEPTABLE",
    )  # fmt: skip
    assert found[0].metrics["clarity"]["score"] == 0.5
    assert found[0].tries == 1


def test_answers_are_in_the_order_of_the_items(server, tmp_path):
    server.failures = {f"q{n}": [n / 10] for n in range(8)}
    server.seconds = 0.02
    found = ask(items(8), tmp_path / "out", concurrency=5)
    assert [(j.id, j.score) for j in found] == [(f"q{n}", n / 10) for n in range(8)]


def test_at_most_so_many_at_once(server, tmp_path):
    server.seconds = 0.05
    ask(items(12), tmp_path / "out", concurrency=3)
    assert server.most_at_once == 3


@pytest.mark.parametrize("wanted", [0, 11])
def test_concurrency_is_bounded(wanted):
    with pytest.raises(ValueError, match="concurrency"):
        InceptBenchConfig(concurrency=wanted)


@pytest.mark.parametrize(
    "failure", [429, 500, 503, "malformed", "failed", "left_out", None, "high", 1.5, True]
)
def test_a_failed_attempt_is_made_again(server, tmp_path, failure):
    server.failures = {"q0": [failure, failure]}
    found = ask(items(2), tmp_path / "out")
    assert [j.score for j in found] == [0.9, 0.9]
    assert server.asked == {"q0": 3, "q1": 1}
    assert found[0].tries == 3


def test_a_time_out_is_tried_again(server, tmp_path):
    server.failures = {"q0": ["timeout"]}
    found = ask(items(1), tmp_path / "out", timeout_seconds=0.5)
    assert (found[0].score, found[0].tries) == (0.9, 2)


@pytest.mark.parametrize(
    ("failure", "reason", "tries"),
    [
        (500, "status 500", 3),
        ("failed", "the judge failed: model overloaded", 3),
        ("malformed", "no valid JSON", 3),
        ("left_out", "leaves this item out", 3),
        (1.5, "no score from 0 to 1: 1.5", 3),
        ("timeout", "no answer within 0.4 s", 3),
        (422, "status 422", 1),
    ],
)
def test_an_item_that_never_succeeds_has_no_score(server, tmp_path, failure, reason, tries):
    server.failures = {"q0": [failure] * 3}
    found = ask(items(2), tmp_path / "out", tries=3, timeout_seconds=0.4)
    assert found[0].score is None
    assert reason in found[0].error
    assert found[0].tries == tries
    assert found[1].score == 0.9


def test_pauses_grow_and_are_uneven_and_heed_the_judge(server, tmp_path, monkeypatch):
    pauses = []

    async def note(seconds):
        pauses.append(seconds)

    server.failures = {"q0": [500, 500, 500, 429, 500]}
    server.retry_after = "7"
    with monkeypatch.context() as patch:
        patch.setattr(inceptbench.asyncio, "sleep", note)
        ask(items(1), tmp_path / "out", tries=6, retry_seconds=1)
    bounds = [(0.5, 1), (1, 2), (2, 4), (7, 8), (8, 16)]
    assert all(low <= p <= high for p, (low, high) in zip(pauses, bounds, strict=True)), pauses


def test_results_are_written_as_they_come_and_a_stopped_pass_goes_on(server, tmp_path):
    server.failures = {"q2": [403]}
    with pytest.raises(ConfigError, match="refuses the key"):
        ask(items(6), tmp_path / "out", concurrency=1)
    path = tmp_path / "out" / "inceptbench.jsonl"
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["q0", "q1"]
    with path.open("a") as file:
        file.write('{"id": "q2", "sco')  # as a killed writer leaves it
    server.asked.clear()
    found = ask(items(6), tmp_path / "out")
    assert set(server.asked) == {"q2", "q3", "q4", "q5"}
    assert [j.score for j in found] == [0.9] * 6
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == [f"q{n}" for n in range(6)]


def test_failed_items_are_asked_again_by_the_next_pass(server, tmp_path):
    server.failures = {"q0": [500, 500]}
    assert ask(items(2), tmp_path / "out", tries=2)[0].score is None
    server.asked.clear()
    assert ask(items(2), tmp_path / "out", tries=2)[0].score == 0.9
    assert server.asked == {"q0": 1}


def test_an_unchanged_item_is_not_asked_twice_in_another_folder(server, tmp_path):
    ask(items(3), tmp_path / "one")
    server.asked.clear()
    changed = items(3)
    changed[1]["content"]["question"] = "Another?"
    found = ask(changed, tmp_path / "two")
    assert server.asked == {"q1": 1}
    assert [j.cached for j in found] == [True, False, True]
    assert len((tmp_path / "two" / "inceptbench.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("tells", [True, False])
def test_another_version_of_the_judge_answers_anew(server, tmp_path, tells):
    server.tells_version = tells
    ask(items(3), tmp_path / "out")
    server.asked.clear()
    server.version, server.score = "2.2.0", 0.5
    found = ask(items(3), tmp_path / "out")
    assert server.asked == {"q0": 1, "q1": 1, "q2": 1}
    assert [(j.score, j.judge_version) for j in found] == [(0.5, "2.2.0")] * 3


def test_without_a_told_version_one_question_finds_it_out(server, tmp_path):
    server.tells_version = False
    ask(items(3), tmp_path / "out")
    server.asked.clear()
    ask(items(3), tmp_path / "out")
    assert server.asked == {"q0": 1}


@pytest.mark.parametrize("health", [404, b"ok"])
def test_a_judge_without_a_readable_health_page_is_asked_all_the_same(server, tmp_path, health):
    server.health = health
    assert ask(items(2), tmp_path / "out")[1].score == 0.9


def test_a_judge_that_is_down_ends_it_in_one_line(server, tmp_path):
    server.health = 503
    with pytest.raises(PosttrainError, match="does not answer: status 503") as caught:
        ask(items(2), tmp_path / "out", tries=2)
    assert "INCEPTBENCH_BASE_URL" in str(caught.value)
    assert not server.asked


def test_a_judge_that_is_not_there_ends_it_in_one_line(server, tmp_path, monkeypatch):
    server.close()
    with pytest.raises(PosttrainError, match="does not answer: no connection"):
        ask(items(2), tmp_path / "out", tries=2)


def test_repeats_are_asked_and_kept_apart(server, tmp_path):
    server.failures = {"q0": [0.8, 1.0, 0.6]}
    found = ask(items(1), tmp_path / "out", repeats=3, concurrency=1)
    assert [(j.repeat, j.score) for j in found] == [(0, 0.8), (1, 1.0), (2, 0.6)]
    server.asked.clear()
    again = ask(items(1), tmp_path / "out", repeats=3)
    assert [j.score for j in again] == [0.8, 1.0, 0.6]
    assert not server.asked


def test_two_items_of_one_id_are_refused(server, tmp_path):
    with pytest.raises(DataError, match="two items have the id `q0`"):
        ask([*items(1), *items(1)], tmp_path / "out")


def test_ctrl_c_ends_it_at_once_and_keeps_what_there_is(server, tmp_path, monkeypatch):
    server.failures = {"q1": ["timeout"]}

    def interrupt(path):
        while not path.is_file() or path.read_text().count("\n") < 3:
            time.sleep(0.01)
        loop.call_soon_threadsafe(task.cancel)

    async def run():
        nonlocal loop, task
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        path = tmp_path / "out" / "inceptbench.jsonl"
        threading.Thread(target=interrupt, args=(path,), daemon=True).start()
        return await inceptbench._Session(find_judge(), settings, path).run(items(4))

    loop = task = None
    settings = InceptBenchConfig(**QUICK)
    started = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    assert time.perf_counter() - started < 4
    server.asked.clear()
    assert [j.score for j in ask(items(4), tmp_path / "out")] == [0.9] * 4
    assert server.asked == {"q1": 1}


def test_the_key_is_nowhere(server, tmp_path, capfd):
    server.failures = {"q0": ["echo"] * 2, "q1": ["failed"] * 2}
    found = ask(items(3), tmp_path / "out", tries=2)
    assert "[key]" in found[0].error
    assert KEY not in repr(found)
    assert KEY not in repr(find_judge())
    assert KEY not in files_text(tmp_path)
    captured = capfd.readouterr()
    assert KEY not in captured.out + captured.err


def test_a_wrong_key_is_said_without_the_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("INCEPTBENCH_API_KEY", "sk-wrong")
    with pytest.raises(ConfigError, match="refuses the key") as caught:
        ask(items(1), tmp_path / "out")
    assert "sk-wrong" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_key_no_judge(monkeypatch):
    monkeypatch.delenv("INCEPTBENCH_API_KEY", raising=False)
    assert find_judge() is None
    monkeypatch.setenv("INCEPTBENCH_API_KEY", "  ")
    assert find_judge() is None


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("", "is not set"),
        ("judge.example", "is no http address"),
        ("http://judge.example/v1", "unencrypted"),
    ],
)
def test_a_key_needs_a_safe_address(monkeypatch, address, problem):
    monkeypatch.setenv("INCEPTBENCH_API_KEY", KEY)
    monkeypatch.setenv("INCEPTBENCH_BASE_URL", address)
    with pytest.raises(ConfigError, match=problem) as caught:
        find_judge()
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("address", ["https://judge.example/v1/", "http://localhost:9"])
def test_addresses_that_are_taken(monkeypatch, address):
    monkeypatch.setenv("INCEPTBENCH_API_KEY", KEY)
    monkeypatch.setenv("INCEPTBENCH_BASE_URL", address)
    assert find_judge().address == address.rstrip("/")


def test_the_missing_package_is_named_with_its_extra(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'posttrain\[inceptbench\]'"):
        ask(items(1), tmp_path / "out")
