import pytest

from posttrain.data.formats import detect_format
from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.gsm8k import convert_gsm8k
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import RowError
from posttrain.errors import DataError

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def reason(convert, row):
    with pytest.raises(RowError) as caught:
        convert(row)
    return caught.value.reason


def pairs(chat):
    return [(m["role"], m["content"]) for m in chat.messages]


def test_alpaca_puts_input_below_instruction():
    chat = convert_alpaca({"instruction": "Add.", "input": "1 2", "output": "3", "id": "a7"})

    assert pairs(chat) == [("user", "Add.\n1 2"), ("assistant", "3")]
    assert chat.keys == {"id": "a7"}


def test_alpaca_history_and_system_come_first():
    row = {
        "instruction": "c",
        "input": None,
        "output": "d",
        "system": "s",
        "history": [["a", "b"]],
    }

    assert pairs(convert_alpaca(row)) == [
        ("system", "s"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


def test_alpaca_keeps_the_space_around_an_output():
    chat = convert_alpaca({"instruction": "a", "output": "\n b \n"})

    assert chat.messages[-1]["content"] == "\n b \n"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"output": None}, "no `output`"),
        ({"output": " \n"}, "no `output`"),
        ({"instruction": ""}, "no `instruction`"),
        ({"output": ["a"]}, "`output` is not text"),
        ({"input": 3}, "`input` is not text"),
        ({"system": {}}, "`system` is not text"),
        ({"history": "a"}, "`history` is not a list"),
        ({"history": [["a"]]}, "`history` holds something else than [user, assistant] pairs"),
        ({"history": [["a", None]]}, "`history` holds something else than [user, assistant] pairs"),
    ],
)
def test_alpaca_reject_has_its_reason(changes, expected):
    assert reason(convert_alpaca, {"instruction": "a", "output": "b", **changes}) == expected


def test_gsm8k_drops_calculator_notes_and_keeps_the_reference():
    chat = convert_gsm8k(
        {"question": " How many? ", "answer": "48/2 = <<48/2=24>>24 clips\n#### 1,024 "}
    )

    assert pairs(chat) == [
        ("user", "How many?"),
        ("assistant", "48/2 = 24 clips\n#### 1,024"),
    ]
    assert chat.reference == "1,024"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"answer": "24"}, "no final answer"),
        ({"answer": "24\n####  "}, "no final answer"),
        ({"answer": ""}, "no `answer`"),
        ({"question": None}, "no `question`"),
        ({"question": 3}, "`question` is not text"),
    ],
)
def test_gsm8k_reject_has_its_reason(changes, expected):
    row = {"question": "q", "answer": "a\n#### 1", **changes}

    assert reason(convert_gsm8k, row) == expected


def test_messages_keep_tools_and_calls():
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    chat = convert_messages(
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "1", "tool_call_id": "c1", "extra": 0},
            ],
            "tools": [tool],
        }
    )

    assert chat.messages[0] == {"role": "user", "content": "ab"}
    assert chat.messages[1]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]
    assert chat.messages[1]["content"] == ""
    assert chat.messages[2] == {"role": "tool", "content": "1", "tool_call_id": "c1"}
    assert chat.tools == (tool,)


def test_tools_may_be_json_in_a_string():
    row = {"messages": [{"role": "user", "content": "a"}], "tools": '[{"name": "f"}]'}

    assert convert_messages(row).tools == ({"name": "f"},)


@pytest.mark.parametrize("arguments", [None, "", "{}", {}])
def test_call_without_arguments_has_none(arguments):
    call = {"function": {"name": "f", "arguments": arguments}}
    row = {"messages": [{"role": "assistant", "content": "a", "tool_calls": [call]}]}

    assert convert_messages(row).messages[0]["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("calls", [None, []])
def test_no_tool_calls_leave_no_key(calls):
    # Llama 3.1's template asks `'tool_calls' in message`.
    row = {"messages": [{"role": "assistant", "content": "a", "tool_calls": calls}]}

    assert "tool_calls" not in convert_messages(row).messages[0]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("text", "a message is not {role, content}"),
        ({"content": "a"}, "a message is not {role, content}"),
        ({"role": "user", "content": 3}, "content is not text"),
        ({"role": "user", "content": [{"type": "image"}]}, "content is not text"),
        ({"role": "assistant", "tool_calls": "f"}, "`tool_calls` is not a list"),
        ({"role": "assistant", "tool_calls": [{}]}, "a tool call has no function name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]},
            "tool call arguments are not an object",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "broken JSON inside a field",
        ),
        (
            {"role": "assistant", "content": "a", "function_call": {"name": "f"}},
            "`function_call` of a message is not supported",
        ),
        (
            {"role": "assistant", "content": "a", "weight": 0},
            "`weight` of a message is not supported",
        ),
        (
            {"role": "assistant", "content": "a", "loss_weight": 0.5},
            "`loss_weight` of a message is not supported",
        ),
        (
            {"role": "assistant", "content": "a", "train": False},
            "`train` of a message is not supported",
        ),
    ],
)
def test_messages_reject_has_its_reason(message, expected):
    assert reason(convert_messages, {"messages": [message]}) == expected


def test_weight_that_changes_nothing_is_taken():
    row = {
        "messages": [
            {"role": "user", "content": "q", "loss_weight": 0.0},
            {"role": "assistant", "content": "a", "weight": 1, "train": True},
        ]
    }

    assert pairs(convert_messages(row)) == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": []}, "no `messages`"),
        ({"messages": "a"}, "no `messages`"),
        ({}, "no `messages`"),
        ({"messages": [{"role": "user"}], "tools": "{"}, "broken JSON inside a field"),
        ({"messages": [{"role": "user"}], "tools": "{}"}, None),
        ({"messages": [{"role": "user"}], "tools": ["f"]}, "`tools` is not a list of objects"),
        ({"messages": [{"role": "user"}], "tools": {"a": 1}}, "`tools` is not a list of objects"),
    ],
)
def test_messages_row_reject_has_its_reason(row, expected):
    expected = expected or "`tools` is not a list of objects"

    assert reason(convert_messages, row) == expected


def test_format_is_found_by_the_fields_of_most_rows():
    good, odd = {"instruction": "a", "output": "b"}, {"x": 1}

    assert detect_format([odd, good, good], "rows.json") == (
        "alpaca",
        "2 of the first 3 rows have `instruction`, `output`",
    )


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"question": "a", "answer": "b\n#### 2"}, "gsm8k"),
        ({"messages": []}, "messages"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
    ],
)
def test_each_format_is_found(row, name):
    assert detect_format([row], "rows.json")[0] == name


def test_unknown_fields_are_shown_with_the_known_formats():
    with pytest.raises(DataError) as caught:
        detect_format([{"text": "a"}, {"question": "q", "answer": "a"}], "rows.json")

    assert "rows.json: no known chat format has the fields `text`" in str(caught.value)
    assert "columns='{instruction: NAME, output: NAME}'" in str(caught.value)
    assert "known chat formats: messages_json," in str(caught.value)
