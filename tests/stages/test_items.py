"""`generate-items` and the `items` task: through the command line, on the built-in model."""

import json
import os
import signal
import subprocess
import time

import pytest

from posttrain.evaluation.items import load_items
from posttrain.files import load_json, load_jsonl
from posttrain.items import Item, check_item
from tests.stages.conftest import command, environment
from tests.stages.test_mistakes import complain
from tests.unit.evaluation.fake_judge import KEY, FakeJudge

SMALL = ("question_tokens=12", "option_tokens=6", "explanation_tokens=12")
QUICK = (*SMALL, "compute.threads=1", "compute.precision=fp32", "compute.device=cpu")

RECIPE = """\
name: items
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - {stage: sample-data, name: wishes, kind: mcq, num: 3}
  - stage: generate-items
    requests: {from_stage: wishes}
    question_tokens: 12
    option_tokens: 6
    explanation_tokens: 12
  - stage: evaluate
    tasks:
      - {task: items, name: written, data: {from_stage: generate-items}}
      - {task: items, name: sample, data: {from_stage: wishes}}
"""


@pytest.fixture
def wishes(tmp_path):
    """Requests of two kinds: in InceptBench's shape, with a passage, and by skill."""
    rows = [
        {"id": "w1", "grade": "4", "subject": "ela", "skills": {"substandard_id": "L.4.1.A"}},
        {"id": "w2", "request": {"grade": "5"}, "stimulus": "Bees fly from flower to flower."},
        {"grade": "K", "difficulty": "easy", "instructions": "About cats."},
    ]
    path = tmp_path / "wishes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def generate(cli, *more, out="items.jsonl"):
    return cli("generate-items", "tiny", "requests=wishes.jsonl", f"out={out}", *QUICK, *more)


def test_items_are_written_for_every_request(cli, tmp_path, wishes):
    result = generate(cli)
    assert result.returncode == 0, result.stderr
    rows = load_jsonl(tmp_path / "items.jsonl")
    assert [row["id"] for row in rows] == ["w1", "w2", "wishes.jsonl:3"]
    assert rows[0]["request"]["skills"] == {"substandard_id": "L.4.1.A"}
    assert rows[1]["content"]["stimulus"] == "Bees fly from flower to flower."
    for row in rows:
        content = row["content"]
        options = {option["key"]: option["text"] for option in content["answer_options"]}
        check_item(
            Item(content["question"], options, content["answer"], content["answer_explanation"])
        )
        assert json.loads(row["text"])["answer"] == content["answer"]
        assert row["model"] == "tiny"
    assert len({row["seed"] for row in rows}) == 3
    assert all(item.problem == "" for item in load_items(tmp_path / "items.jsonl"))


def test_a_killed_batch_goes_on_to_the_same_items(cli, tmp_path, wishes, cache_dir):
    whole = generate(cli, "per_request=3", out="whole.jsonl")
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "items.jsonl"
    arguments = ("requests=wishes.jsonl", "out=items.jsonl", *QUICK, "per_request=3")
    with subprocess.Popen(
        command("generate-items", "tiny", *arguments), cwd=tmp_path, env=environment(cache_dir)
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out.is_file() and out.read_text().count("\n")):
            time.sleep(0.02)
        process.kill()
    written = out.read_text()
    assert written.count("\n") >= 1
    out.write_text(written + '{"id": "half')
    result = generate(cli, "per_request=3")
    assert result.returncode == 0, result.stderr
    assert f"{written.count(chr(10))} of 9 items are there already" in result.stderr
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()


def test_ctrl_c_keeps_the_items_and_says_how_to_go_on(tmp_path, wishes, cache_dir):
    out = tmp_path / "items.jsonl"
    arguments = ("requests=wishes.jsonl", "out=items.jsonl", *QUICK, "per_request=500")
    with subprocess.Popen(
        command("generate-items", "tiny", *arguments),
        cwd=tmp_path, env=environment(cache_dir), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out.is_file() and out.read_text().count("\n")):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "the items so far are kept; go on with: " in said.splitlines()[-1]
    assert load_jsonl(out)


def test_unconstrained_writing_keeps_the_text_and_says_what_is_wrong(cli, tmp_path, wishes):
    result = generate(cli, "constrained=false", "max_new_tokens=12")
    assert result.returncode == 0, result.stderr
    rows = load_jsonl(tmp_path / "items.jsonl")
    assert [row["content"] for row in rows] == [None] * 3  # nobody has taught the model
    assert all(row["text"] and row["error"] == "no JSON object in the text" for row in rows)


def test_one_recipe_writes_and_judges_items(cli, tmp_path):
    recipe = tmp_path / "items.yaml"
    recipe.write_text(RECIPE)
    result = cli("run", str(recipe))
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "items"
    rows = load_jsonl(run / "generate-items" / "items.jsonl")
    assert [row["id"] for row in rows] == ["mcq.jsonl:1", "mcq.jsonl:2", "mcq.jsonl:3"]
    written = load_json(run / "evaluate" / "written" / "results.json")
    assert written["problems"] == 3
    assert written["rules"]["rules.valid_format"]["passed"] == 3
    sample = load_json(run / "evaluate" / "sample" / "results.json")
    assert sample["all_rules_pass_share"] == 1.0
    assert result.stderr.count("INCEPTBENCH_API_KEY is not set") == 2
    assert "3 of 3 items pass all offline rules" in result.stderr
    again = cli("run", str(recipe))
    assert again.stderr.count("unchanged, not run again") == 3


def test_a_key_that_comes_later_has_the_judge_asked(tmp_path, cache_dir):
    judge = FakeJudge()
    (tmp_path / "items.yaml").write_text(RECIPE)
    plain = environment(cache_dir)
    keyed = {**plain, "INCEPTBENCH_API_KEY": KEY, "INCEPTBENCH_BASE_URL": judge.address}
    results = tmp_path / "runs" / "items" / "evaluate" / "sample" / "results.json"
    try:
        for env, mean in ((plain, None), (keyed, 0.9)):
            done = subprocess.run(
                command("evaluate", "items.yaml"),
                cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            judged = load_json(results)["inceptbench"]
            assert (judged and judged["mean_score"]) == mean
            assert KEY not in done.stdout + done.stderr
    finally:
        judge.close()
    assert set(judge.asked.values()) == {2}  # rows of both tasks share their ids
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in texts)


def test_a_misspelt_request_field(cli, tmp_path):
    (tmp_path / "wishes.jsonl").write_text('{"grade": "4", "instruction": "About cats."}\n')
    complain(generate(cli), 3, "wishes.jsonl:1", "did you mean `instructions`?")


def test_no_place_for_the_items(cli, wishes):
    result = cli("generate-items", "tiny", "requests=wishes.jsonl")
    complain(result, 2, "`out` is missing")


def test_items_of_other_settings_in_the_same_place(cli, tmp_path, wishes):
    assert generate(cli).returncode == 0
    before = (tmp_path / "items.jsonl").read_text()
    complain(generate(cli, "seed=1"), 2, "items.jsonl:1", "another out=")
    assert (tmp_path / "items.jsonl").read_text() == before


def test_the_requests_themselves_as_place(cli, wishes):
    before = wishes.read_text()
    complain(generate(cli, out="wishes.jsonl"), 2, "file of the requests")
    assert wishes.read_text() == before


def test_a_missing_file_of_requests(cli):
    complain(generate(cli), 3, "wishes.jsonl", "no such file")


def test_an_items_task_without_items(cli, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    recipe = tmp_path / "items.yaml"
    recipe.write_text(
        "name: items\nmodel: {path: tiny}\nstages:\n  - stage: evaluate\n    tasks:\n"
        "      - {task: items, data: {path: rows.jsonl}}\n"
    )
    complain(cli("evaluate", str(recipe)), 3, "rows.jsonl:1", "no item to judge")
