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

    declared = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    assert convert_messages(row).tools == ({"type": "function", "function": declared},)


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
            {"role": "assistant", "content": "a", "function_call": {"arguments": "{}"}},
            "a tool call has no function name",
        ),
        (
            {"role": "assistant", "function_call": {"name": "f"}, "tool_calls": [CALL]},
            "`tool_calls` and `function_call` in one message",
        ),
        ({"role": "user", "tool_calls": [CALL]}, "a call outside of an assistant turn"),
        ({"role": "user", "reasoning": "a"}, "reasoning outside of an assistant turn"),
        ({"role": "assistant", "reasoning": ["a"]}, "reasoning is not text"),
        ({"role": "narrator", "content": "a"}, "unknown role"),
        (
            {"role": "tool", "content": "a", "tool_call_id": {}},
            "`tool_call_id` of a message is not text",
        ),
        (
            {"role": "assistant", "content": "a", "function_calls": "f()"},
            "`function_calls` of a message is not supported",
        ),
        (
            {"role": "assistant", "content": "a", "train_detail": [0]},
            "`train_detail` of a message is not supported",
        ),
    ],
)
def test_messages_reject_has_its_reason(message, expected):
    assert reason(convert_messages, {"messages": [message]}) == expected


@pytest.mark.parametrize(
    ("stated", "weight"),
    [
        ({"loss_weight": 0.5}, 0.5),
        ({"weight": 0}, 0.0),
        ({"train": False}, 0.0),
        ({"training": True}, 1.0),
        ({"loss": None}, None),
        ({"weight": 1, "train": True}, 1.0),
        ({"loss_weight": 2}, 2.0),
    ],
)
def test_loss_weight_of_a_message_is_kept_as_a_number(stated, weight):
    message = convert_messages({"messages": [{"role": "assistant", "content": "a", **stated}]})

    assert message.messages[0].get("loss_weight") == weight
    assert type(weight) is type(message.messages[0].get("loss_weight"))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"weight": "1"}, "a loss weight is not a number"),
        ({"loss": [1]}, "a loss weight is not a number"),
        ({"loss_weight": -0.5}, "a loss weight is negative or not finite"),
        ({"loss_weight": float("nan")}, "a loss weight is negative or not finite"),
        ({"loss_weight": float("inf")}, "a loss weight is negative or not finite"),
        ({"loss_weight": 10**400}, "a loss weight is negative or not finite"),
        ({"weight": 1, "train": False}, "two loss weights of one message differ"),
    ],
)
def test_what_is_no_loss_weight_is_refused(stated, expected):
    row = {"messages": [{"role": "assistant", "content": "a", **stated}]}

    assert reason(convert_messages, row) == expected


def test_old_function_calls_and_results_become_calls_of_today():
    row = {
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x": 1}'}},
            {"role": "function", "name": "f", "content": "r"},
            {"role": "assistant", "content": "a"},
        ],
        "functions": [{"name": "f", "parameters": {"type": "dict", "properties": {}}}],
    }

    chat = convert_messages(row)

    assert [message["role"] for message in chat.messages] == [
        "system", "user", "assistant", "tool", "assistant"
    ]  # fmt: skip
    function = {"name": "f", "arguments": {"x": 1}}
    assert chat.messages[2]["tool_calls"] == [{"type": "function", "function": function}]
    assert chat.messages[3] == {"role": "tool", "content": "r", "name": "f"}
    assert chat.tools[0]["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    "message",
    [
        {"content": "a", "reasoning_content": "r"},
        {"content": "a", "reasoning": "r"},
        {"content": "a", "thinking": "r", "reasoning": "r"},
        {"content": [{"type": "thinking", "thinking": "r"}, {"type": "text", "text": "a"}]},
        {"content": [{"type": "reasoning", "value": "r"}, {"type": "text", "value": "a"}]},
    ],
)
def test_reasoning_goes_by_many_names(message):
    row = {"messages": [{"role": "assistant", **message}]}

    assert convert_messages(row).messages == (
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
    )


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
        {"type": "tool_call", "value": '{"id": "c1", "name": "f", "arguments": {"x": 1}}'},
    ],
)
def test_calls_may_stand_in_typed_blocks(block):
    row = {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a"}, block]}]}

    message = convert_messages(row).messages[0]
    assert message["content"] == "a"
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]


def test_a_result_that_is_an_object_is_shown_as_json():
    row = {"messages": [{"role": "tool", "content": {"t": "海"}}]}

    assert pairs(convert_messages(row)) == [("tool", '{"t": "海"}')]


def test_a_system_prompt_may_stand_beside_the_turns():
    turns = [{"role": "user", "content": "q"}]
    with_system = [{"role": "system", "content": "s"}, *turns]

    for messages in (turns, with_system):
        chat = convert_messages({"messages": messages, "system": "s"})
        assert pairs(chat) == [("system", "s"), ("user", "q")]
    row = {"messages": with_system, "system": "other"}
    assert reason(convert_messages, row) == "two system prompts"


def test_other_scalar_fields_are_kept_as_text():
    row = {
        "messages": [{"role": "user", "content": "q"}],
        "id": 7,
        "level": 2.5,
        "checked": True,
        "subject": "a",
        "nothing": None,
        "parts": [1],
        "bad": float("nan"),
        "endless": 10**5000,
        "metadata": {"source": "b", "score": 0.5, "nested": {}},
    }

    assert convert_messages(row).keys == {
        "id": "7",
        "level": "2.5",
        "checked": "true",
        "subject": "a",
        "metadata.source": "b",
        "metadata.score": "0.5",
    }


def test_what_cannot_be_written_as_json_is_no_argument_and_no_declaration():
    deep = []
    for _ in range(100):
        deep = [deep]
    for value, expected in (
        (float("nan"), "a value is not JSON"),
        (10**5000, "a value is not JSON"),
        (deep, "nested too deeply"),
        ({1: 2}, "a value is not JSON"),
    ):
        call = {"function": {"name": "f", "arguments": {"x": value}}}
        row = {"messages": [{"role": "assistant", "tool_calls": [call]}]}
        assert reason(convert_messages, row) == expected
        tool = {"type": "function", "function": {"name": "f", "note": value}}
        row = {"messages": [{"role": "user", "content": "q"}], "tools": [tool]}
        assert reason(convert_messages, row) == expected


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
        detect_format([{"says": "a"}], "rows.json")

    assert "rows.json: no known chat format has the fields `says`" in str(caught.value)
    assert "columns='{instruction: NAME, output: NAME}'" in str(caught.value)
    assert "known chat formats: messages_json," in str(caught.value)
