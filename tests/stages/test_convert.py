"""`posttrain convert` through the command line: what goes in comes out, or is counted."""

import json

import pytest

from posttrain.data.formats.dolci import convert_dolci
from posttrain.data.formats.messages_json import convert_messages_json
from posttrain.data.formats.text import convert_text
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
    (reject,) = read_rows(tmp_path / "train.jsonl.rejects.jsonl")
    assert (reject["line"], reject["reason"]) == (4, "no user turn")
    assert reject["row"]["id"] == "lone"
    assert "format: dolci (31 of the first 31 rows have `messages`" in result.stdout
    assert "31 rows read, 30 written" in result.stdout
    assert "1 × no user turn" in result.stdout


def test_table_becomes_alpaca_with_its_columns_mapped(cli, tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text('question_text,input,output,score\n"What, now?",,yes,3\nAdd:,1 + 2,3,\n')
    out = tmp_path / "rows.jsonl"

    result = cli(
        "convert", str(table), f"out={out}", "to=alpaca", "columns.instruction=question_text"
    )

    assert result.returncode == 0, result.stderr
    assert read_rows(out) == [
        {"instruction": "What, now?", "input": "", "output": "yes", "score": "3"},
        {"instruction": "Add:", "input": "1 + 2", "output": "3", "score": ""},
    ]


def test_a_file_of_rejects_is_no_other_output_s_and_is_replaced_only_where_asked(cli, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"instruction": "a", "output": "b"}])
    others, own = tmp_path / "x.rejects.jsonl", tmp_path / "x.jsonl.rejects.jsonl"
    others.write_text("others")
    own.write_text("own")

    refused = cli("convert", source, f"out={tmp_path}/x.jsonl", "to=messages")

    complain(refused, 2, f"out: {own} exists", "overwrite=true")
    assert own.read_text() == "own"
    assert not (tmp_path / "x.jsonl").exists()
    replaced = cli("convert", source, f"out={tmp_path}/x.jsonl", "to=messages", "overwrite=true")
    assert replaced.returncode == 0, replaced.stderr
    assert not own.exists()
    assert others.read_text() == "others"


def test_a_corrected_command_replaces_the_findings_of_the_one_that_failed(cli, tmp_path):
    table, out = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    table.write_text("question,reply\nWhat?,yes\n")
    command = ("convert", str(table), f"out={out}", "--instruction-col", "question")

    refused = cli(*command)
    complain(refused, 3, "rows.csv:2: no `output`", "has: reply, question")
    complain(refused, 3, "--output-col NAME or columns.output=NAME")
    (found,) = read_rows(tmp_path / "out.jsonl.rejects.jsonl")
    assert found["reason"] == "no `output`"

    result = cli(*command, "columns.output=reply")
    assert result.returncode == 0, result.stderr
    assert read_rows(out) == [{"instruction": "What?", "input": "", "output": "yes"}]
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()


def test_a_column_that_is_there_and_empty_is_not_asked_for(cli, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"instruction": "a", "output": ""}])

    result = cli("convert", source, f"out={tmp_path}/out.jsonl", "to=alpaca")
    complain(result, 3, "no `output`")
    assert "columns.output" not in result.stderr


ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def test_other_fields_stay_as_they_are(cli, tmp_path):
    more = {"id": 7, "score": 0.5, "tags": ["x"], "metadata": {"source": {"page": 3}}}
    rows = [{"messages": [ASK, ANSWER], **more, "nothing": None}]
    out = tmp_path / "out.jsonl"

    result = cli("convert", write_rows(tmp_path / "in.jsonl", rows), f"out={out}", "to=alpaca")

    assert result.returncode == 0, result.stderr
    assert read_rows(out) == [{"instruction": "q", "input": "", "output": "a", **more}]


def test_a_row_that_would_lose_something_is_a_reject_unless_losses_are_to_be_counted(cli, tmp_path):
    rows = [
        {"messages": [ASK, {**ANSWER, "reasoning": "r", "time": 3}], "system": ""},
        {"messages": [ASK, ANSWER], "history": ["x"]},
        {"messages": [ASK, ANSWER]},
    ]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    strict = cli("convert", source, f"out={out}", "to=alpaca")

    assert strict.returncode == 0, strict.stderr
    assert "3 rows read, 1 written" in strict.stdout
    rejects = read_rows(tmp_path / "out.jsonl.rejects.jsonl")
    assert [(reject["line"], reject["reason"], reject["detail"]) for reject in rejects] == [
        (1, "alpaca has no place for reasoning",
         "and messages[].time; lossy=count leaves it out"),
        (2, "alpaca has no place for `history`", "lossy=count leaves it out"),
    ]  # fmt: skip

    counted = cli("convert", source, f"out={out}", "to=alpaca", "lossy=count", "overwrite=true")

    assert counted.returncode == 0, counted.stderr
    assert read_rows(out) == [{"instruction": "q", "input": "", "output": "a"}] * 3
    for loss in ("reasoning", "messages[].time", "`history`"):
        assert f"1 rows lost {loss}" in counted.stdout
    assert not (tmp_path / "out.jsonl.rejects.jsonl").exists()


def test_what_reading_leaves_out_by_rule_is_told(cli, tmp_path):
    rows = [{"question": "q", "answer": "2 * 2 = <<2*2=4>>4\n#### 4"}]
    out = tmp_path / "out.jsonl"

    result = cli("convert", write_rows(tmp_path / "in.jsonl", rows), f"out={out}", "to=messages")

    assert read_rows(out)[0]["reference"] == "4"
    assert "left out of 1 rows: calculator notes" in result.stdout


@pytest.mark.parametrize("option", ["--instruction-col", "--instruction_col"])
def test_table_becomes_alpaca_by_the_names_of_its_columns(cli, tmp_path, option):
    table = tmp_path / "rows.csv"
    table.write_text("question_text,reply\nWhat?,yes\n")
    out = tmp_path / "rows.jsonl"

    result = cli(
        "convert", str(table), f"out={out}", "to=alpaca", option, "question_text",
        "--output-col", "reply",
    )  # fmt: skip

    assert result.returncode == 0, result.stderr
    assert read_rows(out) == [{"instruction": "What?", "input": "", "output": "yes"}]


def test_broken_lines_and_bad_labels_are_rejects_with_their_place(cli, tmp_path):
    source = tmp_path / "in.jsonl"
    good = json.dumps({"messages": [ASK, ANSWER], "label": True})
    source.write_text(f'{good}\n{{"messages": [\n{good.replace("true", "false")}\n')
    out = tmp_path / "out.jsonl"

    result = cli("convert", str(source), f"out={out}", "to=sharegpt")

    assert result.returncode == 0, result.stderr
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    assert read_rows(out) == [{"conversations": turns, "label": True}]
    rejects = read_rows(tmp_path / "out.jsonl.rejects.jsonl")
    assert [reject["line"] for reject in rejects] == [2, 3]
    assert rejects[0]["row"] == '{"messages": ['
    assert rejects[1]["reason"] == "the answer is labelled as bad"


@pytest.mark.parametrize("ending", [".json", ".csv", ".tsv", ".parquet"])
def test_rows_come_back_from_every_kind_of_file(cli, tmp_path, ending):
    rows = list(generate_tools(8, 4))
    source = write_rows(tmp_path / "in.jsonl", rows)
    middle, out = tmp_path / f"rows{ending}", tmp_path / "out.jsonl"

    there = cli("convert", source, f"out={middle}", "to=messages_json")
    back = cli("convert", str(middle), f"out={out}", "to=messages_json")

    assert there.returncode == back.returncode == 0, there.stderr + back.stderr
    assert [convert_messages_json(row) for row in read_rows(out)] == [
        convert_dolci(row) for row in rows
    ]


def test_parquet_holds_turns_that_are_all_alike(cli, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"instruction": "q", "output": "a"}] * 2)
    middle, out = tmp_path / "rows.parquet", tmp_path / "out.jsonl"

    cli("convert", source, f"out={middle}", "to=messages")
    cli("convert", str(middle), f"out={out}", "to=messages")

    assert read_rows(out) == [{"messages": [ASK, ANSWER]}] * 2


def test_text_becomes_text_lines(cli, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"content": "A page.", "id": 3}, {"content": ""}])
    out = tmp_path / "out.jsonl"

    result = cli("convert", source, f"out={out}", "to=text")

    assert read_rows(out) == [{"text": "A page.", "id": 3}]
    assert "1 × no text" in result.stdout


def test_how_to_read_it_again_is_said_where_the_rows_look_like_something_else(cli, tmp_path):
    rows = [{"instruction": "q", "output": "a\n#### 4"}]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    result = cli("convert", source, f"out={out}", "to=question_answer")

    assert "set format: question_answer; its rows look like gsm8k" in result.stdout


GOOD = [{"instruction": "a", "output": "b"}]


@pytest.mark.parametrize(
    ("rows", "arguments", "status", "parts"),
    [
        (GOOD, ["to=messages"], 2, ["`out` is missing"]),
        (GOOD, ["to=parquet", "out={out}"], 2, ["to=parquet", "'messages_json', 'alpaca'"]),
        (GOOD, ["to=alpaca", "out={out}.gz"], 2, ["the ending says", "*.jsonl"]),
        (GOOD, ["to=alpaca", "out={taken}"], 2, ["taken.jsonl exists", "overwrite=true"]),
        (GOOD, ["to=messages", "out={in}.csv"], 3, ["nested field `messages`", "to=messages_json"]),
        (
            [
                {
                    "messages": [
                        ASK,
                        {
                            "role": "assistant",
                            "tool_calls": [{"function": {"name": "f", "arguments": {name: 1}}}],
                        },
                    ]
                }
                for name in "ab"
            ],
            ["to=messages", "out={in}.parquet"],
            3,
            ["Parquet has one type a column", "to=messages_json"],
        ),
        (GOOD, ["to=alpaca", "out={in}"], 2, ["is the file to read"]),
        (GOOD, ["to=alpaca", "out={out}", "columns.instruction=q"], 3, ["no column `q`"]),
        (GOOD, ["to=preference", "out={out}"], 3, ["they look like alpaca"]),
        (GOOD, ["to=alpaca", "out={out}", "format=preference"], 3, ["are no chat rows"]),
        (
            [{"instruction": "a", "output": ""}] * 2,
            ["to=alpaca", "out={out}"],
            3,
            ["in.jsonl:1: no `output`", "none of 2 rows", "out.jsonl.rejects.jsonl"],
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(cli, tmp_path, rows, arguments, status, parts):
    places = {name: tmp_path / f"{name}.jsonl" for name in ("in", "out", "taken")}
    places["taken"].write_text("old")
    source = write_rows(places["in"], rows)

    result = cli("convert", source, *[a.format(**places) for a in arguments])

    complain(result, status, *parts)
    left = {path.name for path in tmp_path.iterdir()} - {"out.jsonl.rejects.jsonl"}
    assert left == {"in.jsonl", "taken.jsonl"}
    assert places["taken"].read_text() == "old"
    assert read_rows(places["in"]) == rows


def test_conversations_become_text_and_leave_no_turns_behind(cli, tmp_path):
    rows = list(generate_tools(4, 4))
    pair = {"conversations": [ASK], "chosen": ANSWER, "rejected": {**ANSWER, "content": "b"}}
    weighed = {"messages": [ASK, {**ANSWER, "weight": 0.5}], "reference": "a"}
    source = write_rows(tmp_path / "in.jsonl", [*rows, pair, weighed, {"messages": [ASK, ANSWER]}])
    out, counted = tmp_path / "out.jsonl", tmp_path / "counted.jsonl"

    result = cli("convert", source, f"out={out}", "to=text")
    again = cli("convert", source, f"out={counted}", "to=text", "lossy=count")

    assert result.returncode == again.returncode == 0, result.stderr + again.stderr
    written = read_rows(out)
    assert [row["text"] for row in written] == [
        *(convert_text(row).text for row in rows), "q\na"
    ]  # fmt: skip
    assert not any(row.keys() & {"messages", "conversations"} for row in written)
    assert [row["id"] for row in written[:-1]] == [row["id"] for row in rows]
    assert any('"arguments"' in row["text"] for row in written[:-1])
    assert "1 × a pair of answers is no text" in result.stdout
    assert "1 × text has no place for loss weights" in result.stdout
    assert "1 rows lost loss weights" in again.stdout
    assert "1 rows lost reference" in again.stdout
    assert read_rows(counted)[4] == {"text": "q\na"}


def test_a_format_that_is_named_is_read_for_text_too(cli, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"instruction": "q", "output": "a", "id": 1}])

    result = cli("convert", source, f"out={tmp_path}/out.jsonl", "to=text", "format=alpaca")

    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / "out.jsonl") == [{"text": "q\na", "id": 1}]


def test_fields_beside_a_text_stay_as_they_are(cli, tmp_path):
    row = {"text": "t", "messages": [{**ASK, "note": "n"}]}
    source = write_rows(tmp_path / "in.jsonl", [row])

    result = cli("convert", source, f"out={tmp_path}/out.jsonl", "to=text")

    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / "out.jsonl") == [row]
