import json

import pytest

from posttrain.data.formats import detect_format
from posttrain.data.formats.calls import UNREADABLE
from posttrain.data.formats.dolci import convert_dolci
from posttrain.data.readers import read_rows
from posttrain.samples.tools import generate_tools

DECLARED = json.dumps(
    [
        {"name": "weather.now", "parameters": {"city": {"type": "str"}}},
        {"name": "clock", "parameters": {"type": "dict", "properties": {}}},
    ]
)
SYSTEM = {"role": "system", "content": "Use the functions.", "functions": DECLARED}


def turn(role, content=None, calls=None):
    return {"role": role, "content": content, "functions": None, "function_calls": calls}


def dolci(*turns, **more):
    return {"id": "d1", "messages": [SYSTEM, *turns], "source_dataset": "own", **more}


CALLING = [turn("user", "How is it in Rome?"), turn("assistant", None, "weather.now(city='Rome')")]
ANSWERED = [*CALLING, turn("environment", '{"t": 20}'), turn("assistant", "20 degrees.")]


def test_calls_results_and_null_content_become_turns_in_order():
    chat = convert_dolci(dolci(*ANSWERED))

    call = {"name": "weather.now", "arguments": {"city": "Rome"}}
    assert list(chat.messages) == [
        {"role": "system", "content": "Use the functions."},
        {"role": "user", "content": "How is it in Rome?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "content": '{"t": 20}'},
        {"role": "assistant", "content": "20 degrees."},
    ]
    assert [tool["function"]["name"] for tool in chat.tools] == ["weather.now", "clock"]
    assert chat.keys == {"id": "d1", "source_dataset": "own"}


def test_a_row_that_ends_with_a_call_survives():
    assert "tool_calls" in convert_dolci(dolci(*CALLING)).messages[-1]


def test_functions_may_stand_on_the_user_turn():
    asking = {**CALLING[0], "functions": DECLARED}

    assert len(convert_dolci({"messages": [asking, CALLING[1]]}).tools) == 2


@pytest.mark.parametrize("results", [1, 2])
def test_one_result_for_all_calls_or_one_each(results):
    both = turn("assistant", None, "weather.now(city='Rome')\nclock()")
    rows = [CALLING[0], both, *[turn("environment", "r")] * results, turn("assistant", "Done.")]

    assert len(convert_dolci(dolci(*rows)).messages[2]["tool_calls"]) == 2


def test_calls_may_be_spread_over_assistant_turns_in_a_row():
    rows = [*CALLING, turn("assistant", "One more.", "clock()"), *[turn("environment", "r")] * 2]

    chat = convert_dolci(dolci(*rows, turn("assistant", "Done.")))

    assert [m["role"] for m in chat.messages[2:]] == [
        "assistant", "assistant", "tool", "tool", "assistant"
    ]  # fmt: skip
    assert chat.messages[3]["content"] == "One more."


RESULT, DONE = turn("environment", "r"), turn("assistant", "Done.")
THREE = turn("assistant", None, "clock()\nclock()\nclock()")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([turn("assistant", "Hello.")], "no user turn"),
        ([*CALLING, RESULT], "no final assistant turn"),
        ([*ANSWERED, turn("user", "Thanks.")], "no final assistant turn"),
        (
            [turn("user", "a"), turn("assistant", None, "stars()")],
            "a call to an undeclared function",
        ),
        (
            [turn("user", "a"), turn("assistant", None, "weather.now()")],
            "a required argument is missing",
        ),
        ([turn("user", "a"), RESULT, DONE], "a result without a call"),
        ([*CALLING, RESULT, RESULT, DONE], "a result without a call"),
        ([*CALLING, turn("user", "b"), RESULT, DONE], "a result without a call"),
        ([*ANSWERED, RESULT, DONE], "a result without a call"),
        ([turn("user", "a"), THREE, RESULT, RESULT, DONE], "results do not match the calls"),
        ([turn("user", "a"), turn("tool", "b"), DONE], "unknown role"),
        ([turn("user", "a"), turn(None, "b"), DONE], "unknown role"),
        ([turn("user", "a"), turn("assistant", None, "weather.now(Rome)")], UNREADABLE),
        ([turn("user", "a"), turn("assistant")], "null content without a call"),
        ([turn("user"), DONE], "null content without a call"),
        ([turn("user", "a"), turn("assistant", None, " ")], "null content without a call"),
        ([turn("user", "a", "clock()"), DONE], "a call outside of an assistant turn"),
        ([turn("user", ["a"]), DONE], "content is not text"),
        (["text"], "a message is not {role, content}"),
        ([{**turn("user", "a"), "functions": "[{"}, DONE], "broken JSON inside a field"),
        ([{**turn("user", "a"), "functions": "[3]"}, DONE], "`tools` is not a list of objects"),
    ],
)
def test_reject_has_its_reason(turns, expected, reason):
    assert reason(convert_dolci, dolci(*turns)) == expected


@pytest.mark.parametrize("messages", [None, [], "a"])
def test_a_row_without_messages_is_refused(messages, reason):
    assert reason(convert_dolci, {"messages": messages}) == "no `messages`"


def test_every_sample_row_converts():
    rows = list(generate_tools(100, 5))

    assert detect_format(rows, "sample")[0] == "dolci"
    chats = [convert_dolci(row) for row in rows]
    assert all(chat.messages[-1]["role"] == "assistant" for chat in chats)
    written = sum(
        str(message.get("function_calls") or "").count("(") > 0
        for row in rows
        for message in row["messages"]
    )
    assert written == sum("tool_calls" in m for chat in chats for m in chat.messages) > 50


def test_every_real_call_is_read_as_it_is_written(shared_data):
    folder = shared_data / "toolcall"
    rows = [row for _, row in read_rows(folder / "dolci_shaped_DERIVED_from_bfcl.jsonl")]
    rows += [row for _, row in read_rows(folder / "dolci_real_row.jsonl")]

    chats = [convert_dolci(row) for row in rows]

    assert len(chats) == 241
    for row, chat in zip(rows, chats, strict=True):
        calls = [c["function"] for m in chat.messages for c in m.get("tool_calls", ())]
        written = "\n".join(m["function_calls"] for m in row["messages"] if m["function_calls"])
        # Written again the way Python writes calls, each one is what the row says.
        again = "\n".join(
            f"{c['name']}({', '.join(f'{k}={v!r}' for k, v in c['arguments'].items())})"
            for c in calls
        )
        assert again == written
