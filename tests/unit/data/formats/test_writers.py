from typing import get_args

import pytest

from posttrain.config.convert import WrittenFormat
from posttrain.data.formats import FORMATS
from posttrain.data.formats.dolci import convert_dolci
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.preference import convert_preference
from posttrain.data.formats.writers import WRITERS, drop_features, find_unheld, write_row
from posttrain.samples.chat import generate_chat
from posttrain.samples.preference import generate_preference
from posttrain.samples.tools import generate_tools


def said(*texts, system=""):
    turns = [{"role": "system", "content": system}] if system else []
    turns += [
        {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)
    ]
    return turns


@pytest.mark.parametrize("name", ["messages", "messages_json"])
def test_tool_conversations_are_read_again_as_written(name):
    for row in generate_tools(40, 2):
        chat = convert_dolci(row)

        assert FORMATS[name].convert(write_row(chat, name)) == chat


@pytest.mark.parametrize("name", ["messages", "messages_json", "alpaca"])
def test_conversations_are_read_again_as_written(name):
    rows = [*generate_chat(20, 1), {"messages": said("a", "b", "c", "d", system="s")}]
    rows.append({"messages": said("a", "b"), "reference": "b", "id": "7"})
    for row in rows:
        chat = convert_messages(row)

        assert FORMATS[name].convert(write_row(chat, name)) == chat


def test_pairs_are_read_again_as_written():
    for row in generate_preference(20, 1):
        pair = convert_preference({**row, "id": "7"})

        assert convert_preference(write_row(pair, "preference")) == pair


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (said("a"), "alpaca needs turns of user and assistant by turns"),
        (said("a", "b", "c"), "alpaca needs turns of user and assistant by turns"),
        ([*said("a", "b"), *said("c", "d", system="s")],
         "alpaca needs turns of user and assistant by turns"),
        ([*said("a", "b"), {"role": "tool", "content": "c"}], "alpaca has no place for tools"),
        ([*said("a"), {"role": "assistant", "content": "b", "reasoning_content": "c"}],
         "alpaca has no place for reasoning"),
    ],
)  # fmt: skip
def test_what_alpaca_cannot_hold_is_refused(messages, expected, reason):
    assert reason(write_row, convert_messages({"messages": messages}), "alpaca") == expected


def test_a_field_that_meant_nothing_does_not_come_to_mean_something():
    row = FORMATS["alpaca"].convert({"instruction": "a", "output": "b", "tools": "[]", "note": "n"})

    assert write_row(row, "messages") == {"messages": said("a", "b"), "note": "n"}


def test_every_format_that_is_written_is_read_and_may_be_asked_for():
    read = {name: known.kind for name, known in FORMATS.items()} | {"text": "text"}

    assert {name: writer.kind for name, writer in WRITERS.items()} == {
        name: read[name] for name in WRITERS
    }
    assert set(get_args(WrittenFormat)) == set(WRITERS)


def chat(*messages, **more):
    return convert_messages({"messages": list(messages), **more})


ASK, ANSWER = said("a", "b")


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (chat(ASK, {**ANSWER, "reasoning": "r"}), "alpaca", "alpaca has no place for reasoning"),
        (chat(ASK, {**ANSWER, "weight": 0.5}), "dolly", "dolly has no place for loss weights"),
        (chat(ASK, {**ANSWER, "name": "n"}), "chatml", "chatml has no place for names"),
        (chat(ASK, ANSWER, reference="b"), "dolci", "dolci has no place for reference"),
        (chat(ASK, ANSWER), "prompt", "prompt has no place for an answer"),
        (chat(ASK), "prompt_completion", "prompt_completion needs a question and an answer"),
        (chat(ASK, ANSWER), "xlam", "xlam needs one question and its calls"),
        (chat(ASK, ANSWER), "gsm8k", "no final answer"),
        (chat(ASK, {**ANSWER, "content": "a #### 2"}, reference="3"), "gsm8k",
         "gsm8k would be read otherwise"),
        (chat({**ASK, "content": " a"}, {**ANSWER, "content": "a #### 2"}), "gsm8k",
         "gsm8k would be read otherwise"),
        (chat(ASK, {**ANSWER, "content": "<|im_end|>"}), "chatml", "not ChatML"),
        (chat({**ASK, "content": "<|im_start|>user\nx"}, ANSWER), "prompt_response", None),
        (chat(*said("a", "b", "c", "d")), "dolly", "dolly needs one question and one answer"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused_with_its_reason(content, name, expected, reason):
    if expected is None:
        assert FORMATS[name].convert(write_row(content, name)) == content
    else:
        assert reason(write_row, content, name) == expected


def test_features_are_dropped_only_where_that_is_asked_for(reason):
    call = {"id": "c", "function": {"name": "f", "arguments": {}}}
    calling = chat(
        ASK,
        {"role": "assistant", "tool_calls": [call], "reasoning": "r", "weight": 0.5},
        {"role": "tool", "content": "t", "tool_call_id": "c", "name": "f"},
        ANSWER,
        tools=[{"type": "function", "function": {"name": "f"}}],
        reference="b",
    )
    features = ["reasoning", "loss weights", "names", "call ids", "reference"]

    assert find_unheld(calling, "messages") == []
    assert find_unheld(calling, "dolci") == features
    bare = drop_features(calling, features, "dolci")
    assert find_unheld(bare, "dolci") == []
    assert [set(message) for message in bare.messages] == [
        {"role", "content"}, {"role", "content", "tool_calls"}, {"role", "content"},
        {"role", "content"},
    ]  # fmt: skip
    assert reason(drop_features, calling, ["tools"], "alpaca") == "alpaca has no place for tools"
    declared = chat(ASK, ANSWER, tools=[{"type": "function", "function": {"name": "f"}}])
    assert drop_features(declared, ["tools"], "alpaca").tools == ()


def test_weights_that_change_nothing_need_no_place():
    content = chat({**ASK, "loss_weight": 0.0}, {**ANSWER, "loss_weight": 1.0})

    assert find_unheld(content, "alpaca") == []
    assert write_row(content, "alpaca") == {"instruction": "a", "input": "", "output": "b"}


def test_pairs_whose_answers_differ_in_what_is_dropped_are_no_pairs(reason):
    pair = convert_preference({
        "prompt": [ASK],
        "chosen": {**ANSWER, "reasoning": "r"},
        "rejected": {**ANSWER, "reasoning": "s"},
    })  # fmt: skip

    assert reason(drop_features, pair, ["reasoning"], "hh_rlhf") == (
        "hh_rlhf has no place for reasoning"
    )


def test_items_of_formats_with_a_reference_of_their_own_come_back():
    for name, row in (
        ("gsm8k", {"question": "q", "answer": "2 + 2 = 4\n#### 4"}),
        ("math", {"problem": "q", "solution": r"So $\boxed{4}$."}),
        ("xlam", {"query": "q", "tools": '[{"name": "f"}]', "answers": '[{"name": "f"}]'}),
        ("prompt", {"prompt": [ASK], "reference": "4"}),
    ):
        content = FORMATS[name].convert(row)
        messages = FORMATS["messages"].convert(write_row(content, "messages"))

        assert messages == content
        assert FORMATS[name].convert(write_row(messages, name)) == content
