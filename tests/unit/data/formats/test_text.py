import json

import pytest

from posttrain.data.formats.text import convert_text
from posttrain.data.readers import read_rows
from posttrain.data.records import RowError

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_the_first_field_that_holds_text_is_taken():
    row = {"body": "b", "text": " ", "title": "t"}

    assert convert_text(row, ("text", "body", "title")).text == "b"
    assert convert_text(row, ("title", "body")).text == "t"


@pytest.mark.parametrize(
    "turns",
    [
        {"messages": [{"role": "user", "content": " a "}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"conversation": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "value": "a"}]},
                      {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]},
        {"system": "a", "conversations": [{"from": "gpt", "value": "b"}]},
        {"messages_json": '[{"role": "user", "content": "a\\nb"}]'},
    ],
)  # fmt: skip
def test_turns_are_joined_where_no_field_holds_text(turns):
    assert convert_text({**turns, "text": ""}).text == "a\nb"
    assert convert_text({**turns, "text": "t"}).text == "t"


def test_a_row_without_text_says_what_was_looked_for():
    with pytest.raises(RowError) as caught:
        convert_text({"title": "t"}, ("text", "body"))
    assert caught.value.reason == "no text"
    assert caught.value.detail == "none of text, body holds any"


def test_reasoning_calls_and_tools_are_part_of_the_text():
    call = {"name": "add", "arguments": {"a": 1}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    turns = [
        {"role": "user", "content": "Add."},
        {
            "role": "assistant",
            "reasoning": "Hm.",
            "content": "",
            "tool_calls": [{"function": call}],
        },
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ]

    text = convert_text({"messages": turns, "tools": [tool]}).text

    assert text.splitlines() == [json.dumps(tool), "Add.", "Hm.", json.dumps(call), "2", "Two."]


def test_calls_of_dolci_are_part_of_the_text():
    turns = [
        {"role": "user", "content": "Add.", "functions": '[{"name": "add", "parameters": {}}]'},
        {"role": "assistant", "content": None, "function_calls": "add(a=1)"},
        {"role": "environment", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ]

    text = convert_text({"messages": turns}).text

    assert '{"name": "add", "arguments": {"a": 1}}' in text.splitlines()
    assert '"name": "add"' in text.splitlines()[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"chosen": "a", "rejected": "b"}, "a pair of answers is no text"),
        ({"messages": TURNS, "chosen": "a", "rejected": "b"}, "a pair of answers is no text"),
        ({"chosen_messages": TURNS, "rejected_messages": TURNS}, "a pair of answers is no text"),
        ({"messages": TURNS, "label": False}, "the answer is labelled as bad"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "content is not text",
        ),
        ({"messages": [{"role": "user", "content": " "}]}, "no text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "a text is not valid Unicode"),
        ({"messages": "a"}, "no text"),
    ],
)
def test_what_is_no_text_is_refused_with_its_reason(row, expected, reason):
    assert reason(convert_text, row) == expected


@pytest.mark.parametrize(
    ("name", "rows"),
    [("llamafactory/v1_sft_demo.jsonl", 500),
     ("toolcall/dolci_shaped_DERIVED_from_bfcl.jsonl", 240)],
)  # fmt: skip
def test_every_real_conversation_is_a_text(shared_data, name, rows):
    texts = [convert_text(row).text for _, row in read_rows(shared_data / name)]

    assert len(texts) == rows
