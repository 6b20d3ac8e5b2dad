"""`validate`, `audit`, `inspect`, and the report of `prepare`, as a user would run them."""

import json
import re
from pathlib import Path

import pytest

from posttrain.files import load_jsonl
from tests.stages.test_mistakes import complain

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What does <|im_end|> do, and {i}?"},
            {"role": "assistant", "content": f"It ends turn {i}."},
        ]
    }
    for i in range(30)
]
BAD = [{"messages": [{"role": "user", "content": "only asked"}]}, {"messages": 7}]
DOUBLED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
    "{% if m.role == 'user' %}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, *BAD]))
    return path


def write_recipe(tmp_path, stage: str):
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\nmodel: {{path: tiny}}\nstages:\n  - {stage}\n")
    return str(path)


def test_validate_counts_every_row_and_writes_the_findings(cli, rows, tmp_path):
    result = cli("validate", "rows.jsonl", "dedup.method=exact", "--rejects", "found.jsonl")

    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{rows}: 32 rows, messages (")
    assert lines[1] == "  30 records"
    assert f"      {rows}:31" in lines
    found = load_jsonl(tmp_path / "found.jsonl")
    assert [(f["line"], f["row"]) for f in found] == [(31, BAD[0]), (32, BAD[1])]


def test_validate_fails_where_too_many_rows_are_unusable(cli, rows):
    complain(
        cli("validate", "rows.jsonl", "max_reject_fraction=0.01"), 3, f"{rows}:31", "2 of 32 rows"
    )


def test_validate_reads_a_recipe_without_a_model(cli, rows, tmp_path):
    stage = "{stage: sft, data: {sources: [{path: rows.jsonl}], dedup: {method: exact}}}"
    result = cli("validate", write_recipe(tmp_path, stage), "model.path=./no/such/model")

    assert result.returncode == 0, result.stderr
    assert "  30 records" in result.stdout.splitlines()


def test_validate_mistakes(cli, rows, tmp_path):
    gone = cli("validate", "gone.jsonl")
    complain(gone, 3, "gone.jsonl", "no such file; check the path")
    assert "recipe" not in gone.stderr
    complain(cli("validate", "rows.jsonl", "knd=chat"), 2, "did you mean `kind`?")
    complain(cli("validate", "rows.jsonl", "--rejects", "rows.jsonl"), 2, "is a file to read")
    stage = "{stage: sample-data, kind: math, num: 3}"
    complain(cli("validate", write_recipe(tmp_path, stage)), 2, "no training stage")
    stages = "{stage: sample-data, name: m, kind: math, num: 3}\n"
    stages += "  - {stage: sft, data: {sources: [{from_stage: m}]}}"
    complain(cli("validate", write_recipe(tmp_path, stages)), 2, "rows are there yet")
    assert len(load_jsonl(rows)) == 32


@pytest.mark.parametrize(
    ("target", "rejects", "part"),
    [
        ("vd/*.jsonl", "vd/rows.jsonl", "is a file to read"),
        ("vd", "vd/rows.jsonl", "is a file to read"),
        ("vd/*.jsonl", "vd/new.jsonl", "would be read as rows"),
        ("**/*.jsonl", "new.jsonl", "would be read as rows"),
        ("vd", "vd/deep/new.jsonl", "would be read as rows"),
        ("vd/*.jsonl", "notes.txt", "exists, and holds no findings"),
        ("vd/*.jsonl", "other.jsonl", "exists, and holds no findings"),
    ],
)
def test_findings_replace_no_file_and_are_no_rows(cli, rows, tmp_path, target, rejects, part):
    (tmp_path / "vd").mkdir()
    rows.rename(tmp_path / "vd" / "rows.jsonl")
    (tmp_path / "notes.txt").write_text("own")
    (tmp_path / "other.jsonl").write_text('{"file": 1}\n')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}

    complain(cli("validate", target, "--rejects", rejects), 2, rejects, part)

    assert before == {p: p.read_bytes() for p in before}
    assert not (tmp_path / "new.jsonl").exists()
    assert not (tmp_path / "vd" / "new.jsonl").exists()


def test_findings_of_an_earlier_run_are_replaced(cli, rows, tmp_path):
    for _ in range(2):
        result = cli("validate", "rows.jsonl", "--rejects", "found.jsonl")
        assert result.returncode == 0, result.stderr
    assert [found["line"] for found in load_jsonl(tmp_path / "found.jsonl")] == [31, 32]


def test_settings_of_a_data_file_need_nothing_before_them(cli, rows, tmp_path):
    registry = {"mine": {"file_name": "rows.jsonl", "formatting": "openai"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry))
    target = ("dataset_info.json", "dataset=mine", "limit=20")

    result = cli("prepare", *target, "split=8:1:1", "split.seed=3", "seed=1")
    assert result.returncode == 0, result.stderr
    assert "20 rows read" in result.stderr
    result = cli("inspect", *target, "--rejected")
    assert (result.returncode, result.stdout.strip()) == (0, "no row is rejected")
    result = cli("audit", *target)
    assert "sft: 20 training examples" in result.stdout
    complain(cli("prepare", "dataset_info.json", "dataset=min"), 3, "mine")
    complain(cli("prepare", *target, "split=8:1"), 2, "such as 8:1:1")


def test_audit_shows_every_check(cli, rows):
    result = cli("audit", "rows.jsonl")

    assert result.returncode == 0, result.stderr
    assert re.search(
        r"special tokens in a message's text stay text +(\(sample\))? +30 +0", result.stdout
    )
    assert "each trained turn ends with its end token" in result.stdout


def test_audit_fails_with_places(cli, rows, tmp_path):
    (tmp_path / "doubled.jinja").write_text(DOUBLED)
    result = cli("audit", "rows.jsonl", "model.chat_template=doubled.jinja")

    complain(result, 3, "30 of 30 rows fail “no end or begin token twice", f"{rows}:1, {rows}:2")
    assert "every id is in the vocabulary: 30 asked, all pass" in result.stderr


def test_audit_mistakes(cli, rows, tmp_path):
    complain(cli("audit", "gone.jsonl"), 3, "gone.jsonl", "no such file")
    complain(cli("audit", "gone.yaml"), 2, "cannot read the recipe")
    stage = "{stage: sample-data, kind: math, num: 3}"
    complain(cli("audit", write_recipe(tmp_path, stage)), 2, "no training stage")


def test_inspect_shows_the_segments_of_a_batch(cli, rows):
    result = cli("inspect", "rows.jsonl", "--batch", "0")

    assert result.returncode == 0, result.stderr
    found = re.findall(r"segment (\d+): tokens (\d+)–(\d+), positions 0–(\d+), ", result.stdout)
    assert len(found) == 30
    assert all(int(b) - int(a) == int(p) for _, a, b, p in found)
    # The special token that the user wrote is text, in several tokens.
    assert "<╎|╎im" in result.stdout


def test_inspect_shows_rejected_rows(cli, rows, tmp_path):
    result = cli("inspect", "rows.jsonl", "--rejected", "--count", "5")
    assert result.returncode == 0, result.stderr
    assert f"{rows}:31: no assistant turn" in result.stdout

    result = cli("inspect", "rows.jsonl", "--rejected", "--html", "bad.html")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "bad.html").read_text().count("<article") == 2


def test_inspect_mistakes(cli, rows, tmp_path):
    complain(cli("inspect", "rows.jsonl", "--batch", "99"), 3, "no batch 99", "there are 1")
    both = ("--batch", "0", "--rejected")
    complain(cli("inspect", "rows.jsonl", *both), 2, "`--batch` and `--rejected`")
    complain(cli("inspect", "rows.jsonl", "--rejected", "--first", "9"), 3, "there are 2")
    (tmp_path / "p.jsonl").write_text('{"prompt": "1 + 1?", "reference": "2"}\n')
    grpo = write_recipe(tmp_path, "{stage: grpo, data: {sources: [{path: p.jsonl}]}}")
    complain(cli("inspect", grpo, "--batch", "0"), 2, "plans no batches")


def test_prepare_writes_a_report_beside_the_data(cli, rows):
    result = cli("prepare", "rows.jsonl")

    assert result.returncode == 0, result.stderr
    (path,) = re.findall(r"^sft: report (.*)$", result.stdout, flags=re.MULTILINE)
    page = Path(path).read_text(encoding="utf-8")
    assert "The lines above add up to the rows read" in page
    assert f"{rows}:31" in page
    assert "Length of the examples" in page


def test_check_names_what_is_not_there_and_looks_into_folders_below(cli, tmp_path, rows):
    below = tmp_path / "deep" / "a" / "b"
    below.mkdir(parents=True)
    rows.rename(below / "rows.jsonl")
    recipe = write_recipe(
        tmp_path,
        'stage: sft\n    data: {sources: [{path: "deep/**/rows.jsonl"}, {path: "none/*.jsonl"}]}',
    )
    result = cli("check", recipe)

    assert result.returncode == 0, result.stderr
    assert "none/*.jsonl is not there yet" in result.stderr
    assert "deep/" not in result.stderr
