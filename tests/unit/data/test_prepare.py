import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

from posttrain.config.data import ChatDataConfig
from posttrain.data import prepare
from posttrain.data.pack import plan_batches
from posttrain.data.prepare import data_digest, prepare_data
from posttrain.data.sources import read_source
from posttrain.errors import ConfigError, DataError
from posttrain.files import load_jsonl
from posttrain.training.data import describe_data

QUESTIONS = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(60)]


def settings(*paths, **changes):
    values = {"sources": [{"path": path} for path in paths], **changes}
    return ChatDataConfig.model_validate(values)


def refusal(config, tokenizer):
    with pytest.raises(DataError) as caught:
        prepare_data(config, tokenizer)
    return str(caught.value)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, tiny_tokenizer):
    # After the tokenizer, which lives in the session's cache.
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


def test_every_row_is_accounted_for(write, tiny_tokenizer):
    rows = [
        *QUESTIONS,
        {"instruction": "no output", "output": ""},
        {"instruction": "long", "output": "word " * 500},
        {"instruction": "bad", "output": "<|im_end|>"},
        {"instruction": "half", "output": "\ud83d"},
    ]
    path = write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    against = write("test.jsonl", [{"instruction": "question 3", "output": "x"}])
    data = prepare_data(
        settings(
            path,
            split={"validation": 0.2, "test": 0.2},
            contamination={"against": [{"path": against}]},
            max_tokens=200,
        ),
        tiny_tokenizer,
    )
    report = data.report

    examples = report["examples"]["train"] + report["examples"]["validation"]
    assert report["rows_read"] == len(rows)
    assert examples + report["test_rows"] + sum(report["rejects"].values()) == len(rows)
    assert min(report["examples"]["validation"], report["test_rows"]) > 0
    assert report["examples"] == {"train": len(data.train), "validation": len(data.validation)}
    assert report["trained_tokens"] == data.train.trained_tokens + data.validation.trained_tokens
    assert report["contamination"]["matched_rows"] == 1


def test_rejects_file_has_file_line_reason_and_row(write, tiny_tokenizer):
    path = write("rows.jsonl", [*QUESTIONS[:20], {"instruction": "q", "output": None, "id": "x"}])
    data = prepare_data(settings(path), tiny_tokenizer)

    assert load_jsonl(data.folder / "rejects.jsonl") == [
        {
            "file": str(path),
            "line": 21,
            "reason": "no `output`",
            "detail": "",
            "row": {"instruction": "q", "output": None, "id": "x"},
        }
    ]


def test_reject_that_utf8_cannot_hold_is_written_all_the_same(write, tiny_tokenizer):
    rows = [*QUESTIONS[:20], {"instruction": "\ud83d", "output": ""}]
    path = write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    data = prepare_data(settings(path), tiny_tokenizer)

    (reject,) = load_jsonl(data.folder / "rejects.jsonl")
    assert "\\ud83d" in reject["row"]


def test_test_split_is_a_file_of_messages_that_training_never_saw(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    data = prepare_data(settings(path, split={"test": 0.5}), tiny_tokenizer)
    held_back = load_jsonl(data.folder / "test.jsonl")

    assert 10 < len(held_back) == data.report["test_rows"] < 50
    trained = {data.train.origin(i).line for i in range(len(data.train))}
    lines = {
        QUESTIONS.index(
            {"instruction": r["messages"][0]["content"], "output": r["messages"][1]["content"]}
        )
        + 1
        for r in held_back
    }
    assert trained | lines == set(range(1, 61))
    assert not trained & lines


def test_test_split_keeps_the_tools(write, tiny_tokenizer, tokenizer_with):
    tool = {"name": "f"}
    rows = [
        {
            "messages": [
                {"role": "user", "content": str(i)},
                {"role": "assistant", "content": "b"},
            ],
            "tools": [tool],
        }
        for i in range(8)
    ]
    plain = [{"messages": row["messages"]} for row in rows]
    paths = write("tools.jsonl", rows), write("plain.jsonl", plain)
    template = (
        "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}" + tiny_tokenizer.chat_template
    )
    data = prepare_data(settings(*paths, split={"test": 0.5}), tokenizer_with(template))

    assert {"tools" in row for row in load_jsonl(data.folder / "test.jsonl")} == {True, False}


def test_second_call_takes_the_cache(write, tiny_tokenizer):
    config = settings(write("rows.jsonl", QUESTIONS))
    first, second = (prepare_data(config, tiny_tokenizer) for _ in range(2))

    assert (first.reused, second.reused) == (False, True)
    assert second.report == first.report
    assert second.train.token_ids.tolist() == first.train.token_ids.tolist()


def test_failed_preparation_leaves_nothing_to_reuse(write, tiny_tokenizer):
    config = settings(write("rows.jsonl", QUESTIONS), max_tokens=1, max_reject_fraction=1)

    assert "no row is left" in refusal(config, tiny_tokenizer)
    assert "no row is left" in refusal(config, tiny_tokenizer)


def test_digest_follows_rows_options_template_and_tokenizer(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    digests = [data_digest(settings(path), tiny_tokenizer)]
    digests += [
        data_digest(settings(path, **change), tiny_tokenizer)
        for change in (
            {"max_tokens": 100},
            {"train_on": "last_assistant"},
            {"split": {"validation": 0.1}},
            {"split": {"seed": 1}},
        )
    ]
    template = copy.deepcopy(tiny_tokenizer)
    template.chat_template += " "
    vocabulary = copy.deepcopy(tiny_tokenizer)
    vocabulary.add_tokens(["more"])
    special = copy.deepcopy(tiny_tokenizer)
    special.eos_token = special.pad_token
    digests += [data_digest(settings(path), t) for t in (template, vocabulary, special)]
    write("rows.jsonl", QUESTIONS[:-1])
    digests.append(data_digest(settings(path), tiny_tokenizer))

    assert len(set(digests)) == len(digests)


def test_digest_follows_the_evaluation_set(write, tiny_tokenizer):
    path, against = write("rows.jsonl", QUESTIONS), write("test.jsonl", QUESTIONS[:2])
    config = settings(path, contamination={"against": [{"path": against}]})
    before = data_digest(config, tiny_tokenizer)
    write("test.jsonl", QUESTIONS[:3])

    assert data_digest(config, tiny_tokenizer) != before


def test_digest_does_not_follow_what_a_tokenizer_was_used_for(write, tiny_tokenizer):
    config = settings(write("rows.jsonl", QUESTIONS))
    tokenizer = copy.deepcopy(tiny_tokenizer)
    before = data_digest(config, tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)

    assert data_digest(config, tokenizer) == before


def test_too_many_rejects_stop_with_place_and_reasons(write, tiny_tokenizer):
    bad = [{"instruction": "q", "output": ""}] * 3
    path = write("rows.jsonl", [*QUESTIONS[:7], *bad])

    message = refusal(settings(path), tiny_tokenizer)
    assert message.startswith(f"{path}:8: no `output`; 3 of 10 rows are unusable (3 × no `output`)")
    assert len(prepare_data(settings(path, max_reject_fraction=0.3), tiny_tokenizer).train) == 7


def listed(message):
    """Rows left out, from the file that an error names."""
    (path,) = re.findall(r"each with its reason is in (\S+\.jsonl)", message)
    return [(row["line"], row["reason"]) for row in load_jsonl(Path(path))]


def test_what_the_template_refuses_is_listed_where_the_error_says(write, tokenizer_with):
    tokenizer = tokenizer_with(
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ raise_exception('too odd') }}"
    )
    path = write("rows.jsonl", QUESTIONS[:3])
    counted = "3 × the template refuses this conversation"

    message = refusal(settings(path), tokenizer)
    reasons = [(line, "the template refuses this conversation") for line in (1, 2, 3)]
    assert message.startswith(f"{path}:1: the template refuses this conversation (")
    assert f"3 of 3 rows are unusable ({counted})" in message
    assert listed(message) == reasons
    # All are let pass, and none is left.
    message = refusal(settings(path, max_reject_fraction=1), tokenizer)
    assert message.startswith(f"{path}:1: the template refuses this conversation (")
    assert f"no row is left to train on; of 3 rows 3 were rejected ({counted})" in message
    assert listed(message) == reasons
    assert not list((prepare.cache_root() / "prepared").glob("*/"))


def test_rows_dropped_from_an_empty_data_set_are_listed_too(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS[:2])
    against = {"against": [{"path": path}], "action": "drop"}

    message = refusal(settings(path, contamination=against), tiny_tokenizer)
    assert message.startswith(f"{path}: no row is left to train on; of 2 rows 0 were rejected, 2 ")
    assert listed(message) == [(line, "in an evaluation set") for line in (1, 2)]


def test_answers_labelled_as_bad_are_counted_and_are_no_faults(write, tiny_tokenizer):
    rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i < 3} for i in range(10)]
    path = write("rows.jsonl", rows)
    reason = "the answer is labelled as bad"

    data = prepare_data(settings(path), tiny_tokenizer)
    assert (len(data.train), data.report["rejects"]) == (3, {reason: 7})
    assert len(load_jsonl(data.folder / "rejects.jsonl")) == 7
    # A fault is one whatever the label, and the first fault is named, not the first row left out.
    broken = [{"prompt": "q", "completion": 7, "label": i < 1} for i in range(2)]
    path = write("rows.jsonl", [*rows, *broken])
    message = refusal(settings(path), tiny_tokenizer)
    assert message.startswith(f"{path}:11: ")
    assert "; 2 of 12 rows are unusable (2 × " in message


def test_overlong_row_stops_where_asked(write, tiny_tokenizer):
    path = write("rows.jsonl", [*QUESTIONS, {"instruction": "q", "output": "word " * 300}])

    message = refusal(settings(path, overlong="error", max_tokens=100), tiny_tokenizer)
    assert message.startswith(f"{path}:61: ")
    assert "max_tokens is 100" in message
    data = prepare_data(settings(path, max_tokens=100), tiny_tokenizer)
    assert data.report["rejects"] == {"too long": 1}


def test_parts_of_a_split_row_that_stay_too_long_are_kept_as_rejects(write, tiny_tokenizer, capsys):
    def exchange(number, answer):
        turns = (("user", f"Question {number}?"), ("assistant", answer))
        return [{"role": role, "content": content} for role, content in turns]

    answers = ["word " * 30, "word " * 300, "word " * 30, "word " * 30]
    long = {"messages": [turn for n, text in enumerate(answers) for turn in exchange(n, text)]}
    short = [{"messages": exchange(n, f"Answer {n}.")} for n in range(20)]
    data = prepare_data(
        settings(write("rows.jsonl", [*short, long]), overlong="split", max_tokens=100),
        tiny_tokenizer,
    )
    report = data.report

    assert (report["rows_read"], report["rows_used"], report["rejects"]) == (21, 21, {})
    assert report["overlong"]["split"] == 1  # a row, however many its parts
    assert report["overlong"]["lost parts"] == 1
    assert len(data.train) > 21
    (part,) = load_jsonl(data.folder / "rejects.jsonl")
    assert (part["line"], part["reason"], part["row"]) == (21, "part too long", long)
    assert part["detail"] == "turns 3 to 4 by themselves"
    describe_data(data)
    said = capsys.readouterr().err
    assert "21 rows read = 21 used + 0 test + 0 not used" in said
    assert f"21 rows -> {len(data.train)} train + 0 validation examples" in said
    assert "1 parts of rows left out: part too long (see rejects.jsonl)" in said


@pytest.mark.parametrize(("action", "left"), [("drop", 59), ("report", 60)])
def test_contaminated_row_is_dropped_or_reported(write, tiny_tokenizer, action, left):
    path = write("rows.jsonl", QUESTIONS)
    against = write("test.jsonl", [{"instruction": "QUESTION 7", "output": "x"}])
    contamination = {"against": [{"path": against}], "action": action}
    data = prepare_data(settings(path, contamination=contamination), tiny_tokenizer)

    assert len(data.train) == left
    assert data.report["contamination"]["matched_rows"] == 1
    rejects = load_jsonl(data.folder / "rejects.jsonl")
    expected = [(8, "in an evaluation set", f"prompt text, {against}:1")] if left == 59 else []
    assert [(r["line"], r["reason"], r["detail"]) for r in rejects] == expected


def test_rows_of_an_array_on_one_line_are_told_apart(tmp_path, write, tiny_tokenizer):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([*QUESTIONS[:20], {"instruction": "x", "output": ""}]))
    against = write("test.jsonl", [{"instruction": "QUESTION 7", "output": "x"}])
    data = prepare_data(
        settings(path, contamination={"against": [{"path": against}]}), tiny_tokenizer
    )
    assert len(data.train) == 19
    assert data.report["rejects"] == {"no `output`": 1, "in an evaluation set": 1}


def test_contaminated_row_stops_where_asked(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    contamination = {"against": [{"path": path, "limit": 2}], "action": "error"}

    message = refusal(settings(path, contamination=contamination), tiny_tokenizer)
    assert message.startswith(f"{path}:1: this training row is also an evaluation problem")


def test_evaluation_set_that_cannot_be_read_is_not_taken_for_clean(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    against = write("test.jsonl", [{"instruction": "", "output": ""}] * 3)
    contamination = {"against": [{"path": against}]}

    message = refusal(settings(path, contamination=contamination), tiny_tokenizer)
    assert message.startswith(f"{against}:1: no `instruction`; no row of this evaluation set")


def test_evaluation_problems_that_were_not_read_are_counted(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    against = write("test.jsonl", [{"instruction": "x", "output": "y"}, {"output": ""}])
    config = settings(path, contamination={"against": [{"path": against, "format": "alpaca"}]})

    assert prepare_data(config, tiny_tokenizer).report["contamination"]["unread_problems"] == 1


def test_evaluation_problems_that_nobody_could_train_on_are_searched_for(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    against = write("test.jsonl", [*({"instruction": f"x {i}", "output": "y"} for i in range(9)),
                                   {**QUESTIONS[5], "output": ""}])  # fmt: skip
    found = {"against": [{"path": against}], "action": "drop"}
    report = prepare_data(settings(path, contamination=found), tiny_tokenizer).report

    assert report["rejects"] == {"in an evaluation set": 1}
    assert report["contamination"]["unread_problems"] == 0


def test_columns_give_the_expected_names(write):
    path = write("rows.csv", "prompt,reply,id\na,b,7\n")
    columns = {"instruction": "prompt", "output": "reply"}
    source = settings(path).sources[0].model_copy(update={"columns": columns})
    rows = read_source(source)

    assert [m["content"] for m in rows.records[0].content.messages] == ["a", "b"]
    assert rows.records[0].content.keys == {"id": "7"}
    assert rows.report["format"] == "alpaca"


def test_columns_may_swap_names(write):
    path = write("rows.csv", "instruction,output\nb,a\n")
    columns = {"instruction": "output", "output": "instruction"}
    rows = read_source(settings(path).sources[0].model_copy(update={"columns": columns}))

    assert [m["content"] for m in rows.records[0].content.messages] == ["a", "b"]


def test_column_that_is_not_there_is_named(write):
    path = write("rows.csv", "prompt,output\na,b\n")
    source = settings(path).sources[0].model_copy(update={"columns": {"instruction": "query"}})

    with pytest.raises(DataError, match=r"rows\.csv:2: no column `query`; .*prompt, output"):
        read_source(source)


def test_limit_takes_the_first_rows(write):
    source = settings(write("rows.jsonl", QUESTIONS)).sources[0]

    assert read_source(source.model_copy(update={"limit": 5})).report["rows"] == 5


def test_format_named_in_the_recipe_is_not_guessed(write):
    row = {"question": "q", "answer": "a\n#### 1", "instruction": "i", "output": "o"}
    source = settings(write("rows.jsonl", [row])).sources[0]
    read = read_source(source.model_copy(update={"format": "alpaca"}))

    assert read.records[0].content.messages[0]["content"] == "i"
    assert read.report["evidence"] == "as `format: alpaca` says"
    assert read_source(source).report["format"] == "gsm8k"


def test_rows_of_several_files_keep_their_origins(write, tiny_tokenizer):
    one, two = write("a.jsonl", QUESTIONS[:2]), write("b.jsonl", QUESTIONS[2:4])
    data = prepare_data(settings(one, two), tiny_tokenizer)

    assert [str(data.train.origin(i)) for i in range(4)] == [
        f"{one}:1",
        f"{one}:2",
        f"{two}:1",
        f"{two}:2",
    ]


def test_missing_file_is_refused_before_anything_else(tmp_path, tiny_tokenizer):
    assert "no such file" in refusal(settings(tmp_path / "absent.jsonl"), tiny_tokenizer)
    assert "no file of rows in it" in refusal(settings(tmp_path), tiny_tokenizer)


def test_tokenizer_without_template_is_refused(write, tokenizer_with):
    with pytest.raises(ConfigError, match="no chat template"):
        prepare_data(settings(write("rows.jsonl", QUESTIONS)), tokenizer_with(None))


def test_real_alpaca_rows_are_all_used(shared_data, tiny_tokenizer):
    path = shared_data / "llamafactory" / "alpaca_en_demo.json"
    data = prepare_data(settings(path, max_tokens=100_000), tiny_tokenizer)

    assert data.report["rows_read"] == len(data.train) == 999
    assert sum(check["failures"] for check in data.report["audit"]) == 0


def test_files_to_watch_are_validation_rows_and_nothing_else(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS[:30])
    watched = write("watched.jsonl", [*QUESTIONS[30:40], {"instruction": "q", "output": ""}])
    data = prepare_data(
        settings(path, validation_sources=[{"path": watched}], max_reject_fraction=0.5),
        tiny_tokenizer,
    )

    assert (len(data.train), len(data.validation)) == (30, 10)
    assert [source["path"] for source in data.report["sources"]] == [str(path), str(watched)]
    assert [reject["line"] for reject in load_jsonl(data.folder / "rejects.jsonl")] == [11]
    assert data.report["rows_read"] == 41


def stored(data):
    return {
        str(path.relative_to(data.folder)): path.read_bytes()
        for path in sorted(data.folder.rglob("*"))
        if path.is_file()
    }


def test_any_number_of_processes_gives_the_same_bytes(write, tiny_tokenizer, tmp_path, monkeypatch):
    rows = [*QUESTIONS * 10, {"instruction": "none", "output": ""}]
    path = write("rows.jsonl", [{**row, "n": i % 7} for i, row in enumerate(rows)])
    found = []
    for workers in (1, 3):
        monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / f"cache{workers}"))
        made = settings(
            path,
            workers=workers,
            split={"validation": 0.1, "test": 0.1, "group_by": "n"},
            dedup={"method": "near"},
        )
        found.append(prepare_data(made, tiny_tokenizer))

    one, three = map(stored, found)
    assert one == three
    assert found[0].report["rejects"] == {"repeated": 540, "no `output`": 1}
    assert sum(found[0].report["examples"].values()) + found[0].report["test_rows"] == 60


def test_groups_stay_together_and_strata_get_their_shares(write, tiny_tokenizer):
    rows = [
        {**QUESTIONS[i % 60], "instruction": f"{i}?", "passage": f"p{i // 4}", "level": i % 3}
        for i in range(240)
    ]
    path = write("rows.jsonl", rows)
    grouped = prepare_data(
        settings(path, split={"test": 0.3, "group_by": "passage"}), tiny_tokenizer
    )
    held = {row["passage"] for row in load_jsonl(grouped.folder / "test.jsonl")}
    trained = {rows[grouped.train.origin(i).line - 1]["passage"] for i in range(len(grouped.train))}
    assert len(held) > 5
    assert not held & trained

    split = {"validation": 0.1, "test": 0.1, "stratify_by": "level"}
    made = prepare_data(settings(path, split=split), tiny_tokenizer)
    levels = [row["level"] for row in load_jsonl(made.folder / "test.jsonl")]
    assert [levels.count(str(level)) for level in range(3)] == [8, 8, 8]
    assert made.report["split"]["stratify_by"] == "level"


def test_a_field_that_no_row_has_cannot_decide_the_split(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    said = refusal(settings(path, split={"test": 0.3, "group_by": "passge"}), tiny_tokenizer)
    assert "data.split.group_by: no row has a field `passge`" in said


def test_sources_are_mixed_as_the_recipe_says(write, tiny_tokenizer):
    one = write("one.jsonl", QUESTIONS[:40])
    two = write("two.jsonl", QUESTIONS[40:50])
    sources = [{"path": one, "weight": 1}, {"path": two, "weight": 1}]
    data = prepare_data(ChatDataConfig.model_validate({"sources": sources}), tiny_tokenizer)
    drawn = data.train.epoch(0)

    assert [source["draws"] for source in data.report["mixture"]] == [25, 25]
    assert (drawn < 40).sum() == 25
    assert len(set(drawn[drawn < 40].tolist())) == 25
    assert len(set(data.train.epoch(0)) | set(data.train.epoch(1))) == 50
    three = write("three.jsonl", QUESTIONS[50:60])
    shares = [(one, {"epochs": 0.5}), (two, {"weight": 1}), (three, {"weight": 3})]
    sources = [{"path": path, **share} for path, share in shares]
    data = prepare_data(ChatDataConfig.model_validate({"sources": sources}), tiny_tokenizer)
    assert [source["draws"] for source in data.report["mixture"]] == [20, 5, 15]
    sources = [{"path": one, "epochs": 2}, {"path": two, "max_rows": 3}]
    data = prepare_data(ChatDataConfig.model_validate({"sources": sources}), tiny_tokenizer)
    assert [source["draws"] for source in data.report["mixture"]] == [80, 3]


def test_a_search_that_only_reports_changes_no_example(write, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    against = write("test.jsonl", [{"instruction": "question 7", "output": "x"}])
    plain = data_digest(settings(path), tiny_tokenizer)
    report = {"against": [{"path": against}], "action": "report"}
    reported = data_digest(settings(path, contamination=report), tiny_tokenizer)
    dropped = data_digest(settings(path, contamination=report | {"action": "drop"}), tiny_tokenizer)

    assert reported[0] == plain[0] != dropped[0]
    assert len({plain[1], reported[1], dropped[1]}) == 3


def test_rows_that_change_while_they_are_read_are_not_kept(
    write, tiny_tokenizer, monkeypatch, tmp_path
):
    path = write("rows.jsonl", QUESTIONS)
    compose = prepare.compose_data

    def compose_and_append(*arguments):
        compose(*arguments)
        with path.open("a") as file:
            file.write(json.dumps(QUESTIONS[0]) + "\n")

    monkeypatch.setattr(prepare, "compose_data", compose_and_append)
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    assert "has changed while it was read" in refusal(settings(path), tiny_tokenizer)
    assert not list((tmp_path / "cache" / "prepared").glob("*/report.json"))


def test_every_batch_holds_the_sources_of_a_mixture(write, tiny_tokenizer):
    one, two = write("one.jsonl", QUESTIONS[:40]), write("two.jsonl", QUESTIONS[40:])
    sources = [{"path": one, "weight": 1}, {"path": two, "weight": 1}]
    data = prepare_data(ChatDataConfig.model_validate({"sources": sources}), tiny_tokenizer)
    drawn = plan_batches(
        data.train.lengths, batch_tokens=100, seed=0, batches=16, draw=data.train.mixture.draw
    )
    seen = np.concatenate(drawn) >= 40
    assert 0.4 < seen.mean() < 0.6


@pytest.mark.parametrize("method", ["exact", "near"])
def test_a_training_row_that_repeats_a_watched_one_is_dropped(write, tiny_tokenizer, method):
    words = [f"word{i}" for i in range(40)]

    def row(*changed):
        text = " ".join("other" if i in changed else word for i, word in enumerate(words))
        return {"instruction": text, "output": "Answer."}

    watched = write("watched.jsonl", [row(), row(0, 5), row(0, 5, 12, 20)])
    learned = [*QUESTIONS[:5], row(), row(0, 5, 12, 20), row(0, 5, 12, 20), *QUESTIONS[:2]]
    path = write("rows.jsonl", learned)
    dedup = {"method": method, "threshold": 0.9 if method == "near" else 0.7}
    config = settings(path, validation_sources=[{"path": watched}], dedup=dedup)
    data = prepare_data(config, tiny_tokenizer)

    assert (len(data.train), len(data.validation)) == (5, 3)
    assert data.report["rejects"] == {"repeated": 5}
    rejects = load_jsonl(data.folder / "rejects.jsonl")
    assert [r["row"] for r in rejects] == learned[5:]
    assert [(r["line"], r["detail"]) for r in rejects] == [
        (6, f"as {watched}:1"),
        (7, f"as {watched}:3"),
        (8, f"as {watched}:3"),
        (9, f"as {path}:1"),
        (10, f"as {path}:2"),
    ]


def test_dropped_rows_of_a_file_of_one_line_are_told_with_what_they_hold(write, tiny_tokenizer):
    good, bad = QUESTIONS[:30], {"instruction": "no output", "output": ""}
    path = write("rows.json", json.dumps([*good[:3], bad, good[1], *good[3:], good[9]]))
    asked = write("asked.jsonl", [QUESTIONS[20]])
    against = {"against": [{"path": asked}], "action": "drop"}
    config = settings(path, dedup={"method": "exact"}, contamination=against)
    data = prepare_data(config, tiny_tokenizer)

    found = [(r["reason"], r["row"]) for r in load_jsonl(data.folder / "rejects.jsonl")]
    assert found == [
        ("no `output`", bad),
        ("repeated", good[1]),
        ("in an evaluation set", good[20]),
        ("repeated", good[9]),
    ]


def test_watched_rows_that_are_alike_all_stay_and_are_all_compared(write, tiny_tokenizer):
    words = [f"word{i}" for i in range(60)]

    def row(changed):
        return {"instruction": " ".join(["x", *words[changed:]]), "output": "Answer."}

    # Each is like its neighbours; the first and the last are not alike.
    watched = write("watched.jsonl", [row(0), row(8), row(16)])
    path = write("rows.jsonl", [*QUESTIONS[:5], row(22)])
    dedup = {"method": "near", "threshold": 0.8}
    config = settings(path, validation_sources=[{"path": watched}], dedup=dedup)
    data = prepare_data(config, tiny_tokenizer)

    assert (len(data.train), len(data.validation)) == (5, 3)
    assert load_jsonl(data.folder / "rejects.jsonl")[0]["detail"] == f"as {watched}:3"


@pytest.mark.parametrize("shape", [{"instruction": "question 7", "output": "x"}, {"task": "q"}])
def test_a_broken_row_of_an_evaluation_set_stops_no_search_that_reports(
    write, tiny_tokenizer, shape
):
    path = write("rows.jsonl", QUESTIONS)
    against = write("test.jsonl", json.dumps(shape) + '\n{"instruction": \n')
    contamination = {"against": [{"path": against}], "action": "report"}
    data = prepare_data(settings(path, contamination=contamination), tiny_tokenizer)

    found = data.report["contamination"]
    assert (found["evaluation_problems"], found["unread_problems"]) == (1, 1)
    contamination["action"] = "drop"
    said = refusal(settings(path, contamination=contamination), tiny_tokenizer)
    assert said.startswith(f"{against}:2: ")


def test_evaluation_sets_may_be_folders_of_text(write, tmp_path, tiny_tokenizer):
    path = write("rows.jsonl", QUESTIONS)
    (tmp_path / "set").mkdir()
    write("set/a.txt", "Question 7?\n\nQuestion 8?")
    contamination = {"against": [{"path": tmp_path / "set"}]}
    data = prepare_data(settings(path, contamination=contamination), tiny_tokenizer)

    assert data.report["contamination"]["evaluation_problems"] == 2
    assert data.report["contamination"]["matched_rows"] == 2


@pytest.mark.parametrize(
    ("action", "said"), [("drop", True), ("error", True), ("report", False), (None, False)]
)
def test_a_search_without_evaluation_sets_is_told(write, tiny_tokenizer, capfd, action, said):
    contamination = action and {"action": action}
    config = settings(write("rows.jsonl", QUESTIONS), contamination=contamination)
    describe_data(prepare_data(config, tiny_tokenizer))

    line = f"contamination: nothing was searched: `{action}` is set, and there is no evaluation set"
    assert (line in capfd.readouterr().err) == said


@pytest.mark.parametrize("group", [None, "city"])
def test_a_split_that_got_nothing_is_told(write, tiny_tokenizer, capfd, group):
    rows = [{**row, "city": "Bern"} for row in QUESTIONS[: 20 if group else 1]]
    shares = {"validation": 0.001, "test": 0.002, "group_by": group}
    describe_data(prepare_data(settings(write("rows.jsonl", rows), split=shares), tiny_tokenizer))

    why = "few groups of `city`, and each stays whole" if group else "few rows"
    what = "leave out split.group_by" if group else "a larger share"
    said = capfd.readouterr().err
    assert f"nothing for validation (0.001) and test (0.002) of the split: there are {why}" in said
    assert f"set another split.seed, or {what}\n" in said


def test_splits_with_rows_are_not_told_as_empty(write, tiny_tokenizer, capfd):
    config = settings(write("rows.jsonl", QUESTIONS), split="4:3:3")
    describe_data(prepare_data(config, tiny_tokenizer))
    assert "nothing for" not in capfd.readouterr().err


def test_an_epoch_without_examples_is_refused(write, tiny_tokenizer):
    source = {"path": write("rows.jsonl", QUESTIONS[:20]), "epochs": 0.01}
    config = ChatDataConfig.model_validate({"sources": [source]})

    with pytest.raises(ConfigError) as caught:
        prepare_data(config, tiny_tokenizer)
    assert str(caught.value).startswith("data.sources: an epoch has no example (0.01 epochs of 20 ")


@pytest.mark.parametrize("share", [{"weight": 1}, {"epochs": 1}])
def test_a_source_with_a_share_and_no_example_is_refused(write, tiny_tokenizer, share):
    one, two = write("one.jsonl", QUESTIONS), write("two.jsonl", QUESTIONS[:3])
    sources = [{"path": one, **share}, {"path": two, **share}]
    config = {"sources": sources, "dedup": {"method": "exact"}}

    said = refusal(ChatDataConfig.model_validate(config), tiny_tokenizer)
    assert said.startswith(f"{two}: none of its 3 rows became a training example")
    bad = write("bad.jsonl", [{"instruction": "q", "output": ""}] * 3)
    values = {"sources": [{"path": one, **share}, {"path": bad, **share}]}
    said = refusal(ChatDataConfig.model_validate(values), tiny_tokenizer)
    assert said.startswith(f"{bad}: none of its 3 rows")
    assert "; 3 × no `output`; " in said
    # Without a share of its own nothing is promised.
    sources = [{"path": one, "max_rows": 5}, {"path": two}]
    data = prepare_data(
        ChatDataConfig.model_validate(config | {"sources": sources}), tiny_tokenizer
    )
    assert [source["draws"] for source in data.report["mixture"]] == [5, 0]
