import pytest

from posttrain.data.formats import FORMATS, detect_format
from posttrain.data.formats.preference import (
    convert_first_turn_pair,
    convert_instruction_pair,
    convert_messages_pair,
    convert_preference,
    convert_sharegpt_pair,
    convert_stack_exchange,
    convert_transcript_pair,
)
from posttrain.data.readers import read_rows
from posttrain.samples.preference import generate_preference

QUESTION = {"role": "user", "content": "q"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("good", "bad"))
RENDERED = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def parts(pair):
    return [m["content"] for m in pair.prompt], pair.chosen["content"], pair.rejected["content"]


@pytest.mark.parametrize(
    ("convert", "row"),
    [
        (convert_preference, {"prompt": "q", "chosen": "good", "rejected": "bad"}),
        (convert_preference, {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]}),
        (
            convert_preference,
            {
                "prompt": [QUESTION],
                "chosen": {"content": "good"},
                "rejected": {"content": "bad"},
                "metadata": {"chosen_score": 0.9, "rejected_score": 0.2},
            },
        ),
        (
            convert_preference,
            {"prompt": RENDERED, "chosen": "good<|im_end|>\n", "rejected": "bad<|im_end|>"},
        ),
        (
            convert_preference,
            {
                "prompt": "q",
                "chosen": [QUESTION, GOOD],
                "rejected": [QUESTION, BAD],
                "score_chosen": 8.0,
                "score_rejected": 7.5,
            },
        ),
        (convert_messages_pair, {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}),
        (
            convert_messages_pair,
            {"chosen_messages": [QUESTION, GOOD], "rejected_messages": [QUESTION, BAD]},
        ),
        (
            convert_sharegpt_pair,
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "bad"},
            },
        ),
        (
            convert_sharegpt_pair,
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": [{"from": "gpt", "value": "good"}],
                "rejected": "bad",
            },
        ),
        (convert_instruction_pair, {"instruction": "q", "chosen": "good", "rejected": "bad"}),
        (convert_stack_exchange, {"question": "q", "response_j": "good", "response_k": "bad"}),
        (
            convert_transcript_pair,
            {
                "chosen": "\n\nHuman: q\n\nAssistant: good",
                "rejected": "\n\nHuman: q\n\nAssistant: bad",
            },
        ),
    ],
)
def test_every_shape_becomes_the_same_pair(convert, row):
    assert parts(convert(row)) == (["q"], "good", "bad")


def test_system_tools_and_other_texts_are_kept():
    tools = [{"type": "function", "function": {"name": "f"}}]
    row = {"prompt": "q", "chosen": "good", "rejected": "bad", "system": "s"}

    pair = convert_preference({**row, "tools": tools, "id": "7"})

    assert parts(pair)[0] == ["s", "q"]
    assert (list(pair.tools), pair.keys) == (tools, {"id": "7"})


def test_conversations_share_all_but_their_last_turn(reason):
    head = [{"role": "system", "content": "s"}, QUESTION, GOOD, {"role": "user", "content": "r"}]

    pair = convert_messages_pair({"chosen": [*head, GOOD], "rejected": [*head, BAD]})

    assert parts(pair) == (["s", "q", "good", "r"], "good", "bad")
    other = {"chosen": [*head, GOOD], "rejected": [*head[:3], QUESTION, BAD]}
    assert reason(convert_messages_pair, other) == "chosen and rejected do not share their prompt"


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("Human: q", "Human: q", "not a transcript"),
        ("Well.\n\nHuman: q\n\nAssistant: a", "Human: q\n\nAssistant: b", "not a transcript"),
        ("Human: q\n\nAssistant:", "Human: q\n\nAssistant: b", "no `chosen`"),
        ("Human: q\n\nAssistant: a", "Human: r\n\nAssistant: b",
         "chosen and rejected do not share their prompt"),
        ("Human: q\n\nAssistant: a", "Human: q\n\nAssistant: b\n\nHuman: c",
         "chosen and rejected do not share their prompt"),
        (3, "Human: q\n\nAssistant: b", "`chosen` is not text"),
    ],
)  # fmt: skip
def test_transcripts_that_make_no_pair_have_their_reason(chosen, rejected, expected, reason):
    row = {"chosen": chosen, "rejected": rejected}

    assert reason(convert_transcript_pair, row) == expected


def test_loss_weights_of_a_pair_are_those_of_every_pair(reason):
    def weighed(message, weight):
        return {**message, "loss_weight": weight}

    prompt = [weighed(QUESTION, 0.0)]
    good = {"chosen": [*prompt, weighed(GOOD, 1.0)], "rejected": [*prompt, weighed(BAD, 1.0)]}

    pair = convert_messages_pair(good)

    assert (pair.prompt, pair.chosen, pair.rejected) == ((QUESTION,), GOOD, BAD)
    half = {**good, "rejected": [*prompt, weighed(BAD, 0.5)]}
    assert reason(convert_messages_pair, half) == "a loss weight on an answer of a pair"


def row(**changes):
    return {"prompt": "q", "chosen": "good", "rejected": "bad", **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prompt": ""}, "no `prompt`"),
        ({"prompt": None}, "no `prompt`"),
        ({"chosen": " "}, "no `chosen`"),
        ({"rejected": None}, "no `rejected`"),
        ({"rejected": {"content": ""}}, "no `rejected`"),
        ({"rejected": "good"}, "chosen and rejected are equal"),
        ({"chosen": {"role": "user", "content": "a"}}, "`chosen` is not an assistant turn"),
        ({"chosen": [GOOD, QUESTION, GOOD]}, "an answer of several turns"),
        (
            {"metadata": {"chosen_score": 0.5, "rejected_score": 0.5}},
            "chosen score is not above rejected score",
        ),
        ({"chosen_score": 1, "rejected_score": 2}, "chosen score is not above rejected score"),
        ({"metadata": {"chosen_score": "a", "rejected_score": 1}}, "a score is not a number"),
        (
            {"metadata": {"chosen_score": float("nan"), "rejected_score": 1}},
            "a score is not a number",
        ),
        ({"chosen_score": 10**400, "rejected_score": 1}, "a score is not a number"),
        ({"chosen_score": True, "rejected_score": False}, "a score is not a number"),
        # A table holds its numbers as text.
        ({"chosen_score": "9", "rejected_score": "10"}, "chosen score is not above rejected score"),
        ({"prompt": [QUESTION, GOOD]}, "the prompt does not end with a turn to answer"),
        (
            {"prompt": "<|im_start|>user\nq<|im_end|>\n"},
            "the rendered prompt does not end with the assistant's header",
        ),
        (
            {"prompt": "other", "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
            "`prompt` is no part of the conversations of the answers",
        ),
    ],
)
def test_reject_has_its_reason(changes, expected, reason):
    assert reason(convert_preference, row(**changes)) == expected


def test_answers_of_several_turns_are_compared_where_they_part(reason):
    def call(value):
        function = {"name": "f", "arguments": {"x": value}}
        return {"role": "assistant", "tool_calls": [{"function": function}]}

    result = {"role": "tool", "content": "r"}
    several = row(chosen=[call(1), result, GOOD], rejected=[call(2), result, BAD])

    pair = convert_first_turn_pair(several)
    assert [m["role"] for m in pair.prompt] == ["user"]
    assert pair.chosen["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert "tool_calls" in pair.rejected

    later = convert_first_turn_pair(
        row(chosen=[call(1), result, GOOD], rejected=[call(1), result, BAD])
    )
    assert [m["role"] for m in later.prompt] == ["user", "assistant", "tool"]
    assert parts(later)[1:] == ("good", "bad")

    shorter = row(chosen=[call(1), result], rejected=[call(1), result, GOOD])
    assert reason(convert_first_turn_pair, shorter) == "chosen and rejected are equal"


def test_every_sample_pair_converts():
    rows = list(generate_preference(50, 1))

    assert detect_format(rows, "sample", "preference")[0] == "preference"
    assert all(convert_preference(row).chosen["content"] for row in rows)


@pytest.mark.parametrize(
    ("name", "wanted", "count"),
    [
        ("llamafactory/dpo_en_demo.json", "sharegpt_preference", 300),
        ("llamafactory/v1_dpo_demo.jsonl", "v1_preference", 10),
        ("formats/torchtune/hh_rlhf_tiny.json", "messages_preference", 1),
        ("formats/torchtune/stack_exchange_paired_tiny.json", "stack_exchange", 25),
    ],
)
def test_real_pairs_are_found_and_convert(shared_data, name, wanted, count):
    rows = [row for _, row in read_rows(shared_data / name)]

    found, _ = detect_format(rows, name, "preference")

    assert found == wanted
    assert len([FORMATS[found].convert(row) for row in rows]) == count


def test_real_tool_pairs_are_compared_turn_by_turn(shared_data, reason):
    rows = [row for _, row in read_rows(shared_data / "toolcall/trl_toolcall_dpo.jsonl")]

    assert {reason(convert_preference, row) for row in rows} == {"an answer of several turns"}
    assert len([convert_first_turn_pair(row) for row in rows]) == 8
