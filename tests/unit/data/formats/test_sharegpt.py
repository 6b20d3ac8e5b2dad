import json

import pytest

from posttrain.data.formats.kto import convert_kto
from posttrain.data.formats.sharegpt import convert_sharegpt
from posttrain.data.readers import read_rows


def said(name, text):
    return {"from": name, "value": text}


def pairs(chat):
    return [(m["role"], m["content"]) for m in chat.messages]


@pytest.mark.parametrize("user", ["human", "user", "Human", "prompter"])
@pytest.mark.parametrize("assistant", ["gpt", "assistant", "model", "chatgpt"])
def test_roles_go_by_many_names(user, assistant):
    row = {"conversations": [said("system", "s"), said(user, "q"), said(assistant, "a")], "id": "7"}

    chat = convert_sharegpt(row)

    assert pairs(chat) == [("system", "s"), ("user", "q"), ("assistant", "a")]
    assert chat.keys == {"id": "7"}


@pytest.mark.parametrize(("role", "content"), [("role", "content"), ("role", "text")])
def test_keys_go_by_other_names_too(role, content):
    row = {"conversations": [{role: "user", content: "q"}, {role: "assistant", content: "a"}]}

    assert pairs(convert_sharegpt(row)) == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize("calling", ["function_call", "tool_call"])
@pytest.mark.parametrize("answering", ["observation", "tool", "tool_response", "function_response"])
def test_calls_and_results(calling, answering):
    call = {"name": "f", "arguments": {"x": 1}}
    row = {
        "conversations": [
            said("human", "q"),
            said(calling, json.dumps([call, call])),
            said(answering, "r"),
            said("gpt", "a"),
        ],
        "system": "s",
        "tools": json.dumps([{"name": "f", "description": "d"}]),
    }

    chat = convert_sharegpt(row)

    assert pairs(chat) == [
        ("system", "s"), ("user", "q"), ("assistant", ""), ("tool", "r"), ("assistant", "a")
    ]  # fmt: skip
    assert chat.messages[2]["tool_calls"] == [{"type": "function", "function": call}] * 2
    assert chat.tools[0]["function"]["name"] == "f"


def test_calls_in_openai_notation_are_kept():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {}}}
    turns = [
        said("human", "q"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "c1"},
    ]

    chat = convert_sharegpt({"conversations": turns})

    assert chat.messages[1]["tool_calls"] == [call]
    assert chat.messages[2]["tool_call_id"] == "c1"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, "no `conversations`"),
        ({"conversations": []}, "no `conversations`"),
        ({"conversations": ["a"]}, "a message is not {role, content}"),
        ({"conversations": [{"value": "a"}]}, "a message is not {role, content}"),
        ({"conversations": [said("narrator", "a")]}, "unknown role"),
        ({"conversations": [said("human", [3])]}, "content is not text"),
        ({"conversations": [said("function_call", "f")]}, "a function call cannot be read"),
        ({"conversations": [said("function_call", "{")]}, "broken JSON inside a field"),
        ({"conversations": [said("system", "a")], "system": "b"}, "two system prompts"),
        ({"conversations": [said("human", "a")], "tools": "f"}, "broken JSON inside a field"),
        (
            {"conversations": [{**said("gpt", "a"), "weight": -1}]},
            "a loss weight is negative or not finite",
        ),
    ],
)
def test_reject_has_its_reason(row, expected, reason):
    assert reason(convert_sharegpt, row) == expected


def test_only_good_answers_of_labelled_rows_are_imitated(reason):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    turns = [said("human", "q"), said("gpt", "a")]

    assert pairs(convert_kto({"messages": messages, "label": True})) == [
        ("user", "q"),
        ("assistant", "a"),
    ]
    assert len(convert_kto({"conversations": turns, "label": True}).messages) == 2
    assert reason(convert_kto, {"messages": messages, "label": False}) == (
        "the answer is labelled as bad"
    )
    assert reason(convert_kto, {"messages": messages, "label": "yes"}) == (
        "`label` is not true or false"
    )


def test_every_real_row_converts(shared_data):
    rows = [row for _, row in read_rows(shared_data / "llamafactory/glaive_toolcall_en_demo.json")]

    chats = [convert_sharegpt(row) for row in rows]

    calls = sum(len(m.get("tool_calls", ())) for chat in chats for m in chat.messages)
    assert (len(chats), calls) == (300, 211)
