import json

import pytest

from posttrain.config.evaluation import ItemsTask
from posttrain.config.items import ItemChecks
from posttrain.errors import DataError, PosttrainError
from posttrain.evaluation.comparisons import compare_records
from posttrain.evaluation.items import evaluate_items, load_items
from posttrain.evaluation.results import load_records
from posttrain.evaluation.tasks import run_task
from posttrain.files import load_json, write_jsonl
from posttrain.items import Item, format_item
from posttrain.samples.mcq import generate_mcq
from tests.unit.evaluation.fake_judge import KEY, FakeJudge

REQUEST = {"grade": "4", "subject": "ela", "type": "mcq", "locale": "en-US"}
TEXT = format_item(
    Item(
        "Which word means happy?",
        {"A": "glad", "B": "angry", "C": "tired", "D": "slow"},
        "A",
        "Option A is right.",
    )
)
CONTENT = {
    "type": "mcq",
    "question": "Which word is the opposite of tall?",
    "answer_options": [
        {"key": k, "text": t} for k, t in zip("ABCD", ("red", "short", "old", "new"), strict=True)
    ],
    "answer": "B",
    "answer_explanation": "Short is the opposite.",
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("INCEPTBENCH_API_KEY", raising=False)
    monkeypatch.delenv("INCEPTBENCH_BASE_URL", raising=False)


@pytest.fixture
def server(monkeypatch, tmp_path):
    judge = FakeJudge()
    monkeypatch.setenv("INCEPTBENCH_API_KEY", KEY)
    monkeypatch.setenv("INCEPTBENCH_BASE_URL", judge.address)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    yield judge
    judge.close()


@pytest.fixture
def file(tmp_path):
    """Four items: good, good without text, with a wrong key, and none at all."""
    path = tmp_path / "items.jsonl"
    wrong = {**CONTENT, "question": "Which word is the opposite of loud?", "answer": "F"}
    rows = [
        {"id": "a", "request": REQUEST, "content": {}, "text": TEXT, "model": "m"},
        {"id": "b", "request": REQUEST, "content": CONTENT},
        {"id": "c", "request": REQUEST, "content": wrong},
        {"id": "d", "request": REQUEST, "content": None, "text": None, "error": "too long"},
    ]
    write_jsonl(path, rows)
    return path


def test_items_are_judged_by_rules_alone_without_a_key(file, tmp_path, capsys):
    results = evaluate_items(ItemChecks(), file, tmp_path / "out")
    said = [line for line in capsys.readouterr().err.splitlines() if "inceptbench" in line]
    assert len(said) == 1
    assert "INCEPTBENCH_API_KEY is not set" in said[0]
    assert results["source"] == "offline_rules"
    assert results["inceptbench"] is None
    assert results["all_rules_pass_share"] == results["value"] == 0.5
    assert results["interval"] == pytest.approx([0.1500, 0.8500], abs=1e-4)  # Wilson, 2 of 4
    assert results["errors"] == {"rules.answer_in_options": 1, "rules.valid_format": 1}
    assert results["rules"]["rules.answer_in_options"] == {
        "passed": 2, "failed": 2, "not_applicable": 0,
    }  # fmt: skip
    assert load_json(tmp_path / "out" / "results.json") == results
    assert not (tmp_path / "out" / "inceptbench.jsonl").exists()


def test_the_rules_have_no_score_that_could_be_averaged_with_the_judges(file, tmp_path):
    evaluate_items(ItemChecks(), file, tmp_path / "out")
    for name in ("records.jsonl", "results.json"):
        text = (tmp_path / "out" / name).read_text()
        assert '"score"' not in text
        assert "overall" not in text


def test_every_item_keeps_its_findings(file, tmp_path):
    evaluate_items(ItemChecks(), file, tmp_path / "out")
    records = {record["id"]: record for record in load_records(tmp_path / "out")}
    assert list(records) == ["a", "b", "c", "d"]
    assert records["a"]["completion"] == TEXT
    assert records["a"]["content"]["question"] == "Which word means happy?"
    assert [records[name]["error"] for name in "abcd"] == [
        None, None, "rules.answer_in_options", "rules.valid_format",
    ]  # fmt: skip
    assert records["d"]["rules"]["rules.valid_format"] == {"passed": False, "reason": "too long"}
    assert "'F'" in records["c"]["rules"]["rules.answer_in_options"]["reason"]


def test_the_judge_stands_beside_the_rules(server, file, tmp_path):
    server.failures = {"a": [1.0], "b": [0.5]}
    checks = ItemChecks(inceptbench={"retry_seconds": 0.01})
    results = evaluate_items(checks, file, tmp_path / "out")
    judged = results["inceptbench"]
    assert judged["source"] == "inceptbench"
    assert judged["mean_score"] == pytest.approx((1.0 + 0.5 + 0.9) / 3)
    assert judged["ratings"] == {"SUPERIOR": 1, "ACCEPTABLE": 1, "INFERIOR": 1}
    assert judged["not_sent"] == 1
    assert results["all_rules_pass_share"] == 0.5
    records = {record["id"]: record for record in load_records(tmp_path / "out")}
    assert records["a"]["inceptbench"]["rating"] == "SUPERIOR"
    assert "inceptbench" not in records["d"]
    sent = {body["generated_content"][0]["id"]: body["generated_content"][0] for body in
            server.bodies}  # fmt: skip
    assert sent["b"] == {"id": "b", "request": REQUEST, "content": CONTENT}
    assert "stimulus" not in sent["a"]["content"]
    everything = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in everything


def test_too_many_failures_are_an_error_after_all_is_written(server, file, tmp_path):
    server.failures = {"a": [500] * 2}
    checks = ItemChecks(inceptbench={"retry_seconds": 0.01, "tries": 2})
    with pytest.raises(PosttrainError, match=r"1 of 3 items have no score \(33%") as caught:
        evaluate_items(checks, file, tmp_path / "out")
    assert caught.value.exit_code != 0
    results = load_json(tmp_path / "out" / "results.json")
    assert results["inceptbench"]["unscored"] == 1
    assert results["inceptbench"]["mean_score"] == 0.9
    assert load_records(tmp_path / "out")[0]["inceptbench"]["score"] is None
    assert evaluate_items(checks, file, tmp_path / "out")["inceptbench"]["unscored"] == 0


def test_null_never_asks_the_judge(server, file, tmp_path):
    assert evaluate_items(ItemChecks(inceptbench=None), file, tmp_path)["inceptbench"] is None
    assert not server.asked


def test_sample_rows_and_whole_requests_are_items_too(tmp_path):
    sample = tmp_path / "sample.jsonl"
    write_jsonl(sample, generate_mcq(20, seed=1))
    results = evaluate_items(ItemChecks(inceptbench=None), sample, tmp_path / "out")
    assert results["all_rules_pass_share"] == 1.0
    whole = tmp_path / "whole.json"
    rows = [{"id": "x", "request": REQUEST, "content": CONTENT}]
    whole.write_text(json.dumps({"generated_content": rows}))
    (item,) = load_items(whole)
    assert (item.id, item.request, item.problem) == ("x", REQUEST, "")


def test_grade_options_and_limit(file, tmp_path):
    checks = ItemChecks(inceptbench=None, options=3, grade=4)
    results = evaluate_items(checks, file, tmp_path / "out", limit=2)
    assert results["problems"] == 2
    assert results["errors"] == {"rules.option_count": 2}


def test_copies_in_a_batch_fail(tmp_path):
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [{"id": n, "request": REQUEST, "content": CONTENT} for n in "ab"])
    results = evaluate_items(ItemChecks(inceptbench=None), path, tmp_path / "out")
    assert results["errors"] == {"rules.no_duplicate": 1}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": "a", "request": REQUEST}, "neither `content` nor `text`"),
        ({"id": "a", "request": "4", "content": CONTENT}, "`request` is no object"),
        ({"generated_content": [5]}, "`generated_content` is no object"),
    ],
)
def test_rows_that_are_no_items(tmp_path, row, problem):
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [row])
    with pytest.raises(DataError, match=problem) as caught:
        load_items(path)
    assert "items.jsonl:1" in str(caught.value)


def test_two_items_of_one_id(tmp_path):
    path = tmp_path / "items.jsonl"
    write_jsonl(path, [{"id": "a", "content": CONTENT}] * 2)
    with pytest.raises(DataError, match=r"items.jsonl:2: a second item with the id `a`"):
        load_items(path)


def test_as_a_task_it_needs_no_model_and_compares_in_pairs(file, tmp_path):
    task = ItemsTask(kind="items", data={"path": file}, inceptbench=None)
    assert task.needs == "nothing"
    results = run_task(task, None, None, tmp_path / "one", model_name="m")
    assert (results["task"], results["name"], results["model"]) == ("items", "items", "m")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2]["content"]["answer"] = "A"
    write_jsonl(file, rows)
    run_task(task, None, None, tmp_path / "two", model_name="m")
    compared = compare_records(load_records(tmp_path / "two"), load_records(tmp_path / "one"))
    assert (compared["wins"], compared["losses"]) == (1, 0)
    assert compared["difference"] == 0.25
