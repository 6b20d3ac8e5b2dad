"""`posttrain convert` through the command line: what goes in comes out, or is counted."""

import json

import pytest

from posttrain.data.formats.dolci import convert_dolci
from posttrain.data.formats.messages_json import convert_messages_json
from posttrain.samples.tools import generate_tools
from tests.stages.test_mistakes import complain


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_dolci_becomes_text_columns_and_every_reject_has_its_place(cli, tmp_path):
    rows = list(generate_tools(30, 4))
    turn = {"content": "a", "functions": None, "function_calls": None}
    rows.insert(3, {"id": "lone", "messages": [{**turn, "role": "assistant"}]})
    out = tmp_path / "train.jsonl"

    source = write_rows(tmp_path / "dolci.jsonl", rows)
    result = cli("convert", source, f"out={out}", "to=messages_json")

    assert result.returncode == 0, result.stderr
    written = read_rows(out)
    assert [convert_messages_json(row) for row in written] == [
        convert_dolci(row) for row in rows if row["id"] != "lone"
    ]
    assert {type(value) for row in written for value in row.values()} == {str}
    (reject,) = read_rows(tmp_path / "train.rejects.jsonl")
    assert (reject["line"], reject["reason"]) == (4, "no user turn")
    assert reject["row"]["id"] == "lone"
    assert "format: dolci (31 of the first 31 rows have `messages`" in result.stdout
    assert "31 rows read, 30 written" in result.stdout
    assert "1 × no user turn" in result.stdout


def test_table_becomes_alpaca_with_its_columns_mapped(cli, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text('question_text,input,output,score\n"What, now?",,yes,3\nAdd:,1 + 2,3,\n')
    out = tmp_path / "rows.jsonl"
    old_rejects = tmp_path / "rows.rejects.jsonl"
    old_rejects.write_text("old")

    result = cli(
        "convert", str(table), f"out={out}", "to=alpaca", "columns.instruction=question_text"
    )

    assert result.returncode == 0, result.stderr
    assert read_rows(out) == [
        {"instruction": "What, now?", "input": "", "output": "yes", "score": "3"},
        {"instruction": "Add:", "input": "1 + 2", "output": "3", "score": ""},
    ]
    assert not old_rejects.exists()


def test_fields_that_are_left_out_are_counted(cli, tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "time": 3}]
    rows = [{"messages": turns, "id": "7", "score": 0.5}, {"messages": turns, "score": None}]
    out = tmp_path / "out.jsonl"

    result = cli("convert", write_rows(tmp_path / "in.jsonl", rows), f"out={out}", "to=messages")

    assert result.returncode == 0, result.stderr
    assert [row.keys() for row in read_rows(out)] == [{"id", "messages"}, {"messages"}]
    assert "left out: `messages[].time` of 2 rows" in result.stdout
    assert "left out: `score` of 1 rows" in result.stdout


GOOD = [{"instruction": "a", "output": "b"}]


@pytest.mark.parametrize(
    ("rows", "arguments", "status", "parts"),
    [
        (GOOD, ["to=messages"], 2, ["`out` is missing"]),
        (GOOD, ["to=parquet", "out={out}"], 2, ["to=parquet", "'messages_json', 'alpaca'"]),
        (GOOD, ["to=alpaca", "out={in}"], 2, ["is the file to read"]),
        (GOOD, ["to=alpaca", "out={out}", "columns.instruction=q"], 3, ["no column `q`"]),
        (GOOD, ["to=preference", "out={out}"], 3, ["they look like alpaca"]),
        (GOOD, ["to=alpaca", "out={out}", "format=preference"], 3, ["are no chat rows"]),
        (
            [{"instruction": "a", "output": ""}] * 2,
            ["to=alpaca", "out={out}"],
            3,
            ["in.jsonl:1: no `output`", "none of 2 rows", "out.rejects.jsonl"],
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(cli, tmp_path, rows, arguments, status, parts):
    places = {"in": tmp_path / "in.jsonl", "out": tmp_path / "out.jsonl"}
    source = write_rows(places["in"], rows)

    result = cli("convert", source, *[a.format(**places) for a in arguments])

    complain(result, status, *parts)
    assert not places["out"].exists()
    assert read_rows(places["in"]) == rows
