import pytest

from posttrain.data.formats import FORMATS
from posttrain.data.formats.dolci import convert_dolci
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.preference import convert_preference
from posttrain.data.formats.writers import WRITERS, write_row
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


def test_every_format_that_is_written_is_read():
    assert {name: kind for name, (kind, _) in WRITERS.items()} == {
        name: FORMATS[name].kind for name in WRITERS
    }
