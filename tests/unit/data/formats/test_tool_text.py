import json

import pytest

from posttrain.data.formats.tool_text import convert_glaive, convert_toolace, find_functions

WEATHER = {"name": "Get Weather", "parameters": {"type": "dict", "properties": {
    "city": {"type": "str"}, "days": {"type": "int"}}, "required": ["city"]}}  # fmt: skip
ROLE = "You know the weather."
HOW = f"""{ROLE}
Here is a list of functions in JSON format that you can invoke:
{json.dumps([WEATHER])}.
Should you decide to return the function call(s), put it in the format of [func1(a=b), func2(c)].
NO other text MUST be included."""


def toolace(*texts, system=HOW):
    names = ["user", "assistant", "tool", "assistant"]
    turns = [{"from": name, "value": text} for name, text in zip(names, texts, strict=False)]
    return {"system": system, "conversations": turns}


def test_toolace_text_becomes_tools_and_calls():
    chat = convert_toolace(toolace("q", '[Get Weather(city="Bonn", days=2)]', "[12]", "12 degrees"))

    assert [message["role"] for message in chat.messages] == [
        "system", "user", "assistant", "tool", "assistant"
    ]  # fmt: skip
    # What the model is stays; how that data set writes calls goes.
    assert chat.messages[0]["content"] == ROLE
    function = {"name": "Get Weather", "arguments": {"city": "Bonn", "days": 2}}
    assert chat.messages[2] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": function}],
    }
    schema = chat.tools[0]["function"]["parameters"]
    assert schema["properties"] == {"city": {"type": "string"}, "days": {"type": "integer"}}


def test_an_answer_in_words_stays_one():
    chat = convert_toolace(toolace("q", "Which city? [I need one]"))

    assert chat.messages[-1] == {"role": "assistant", "content": "Which city? [I need one]"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Other(city='a')]", "a call to an undeclared function"),
        ("[Get Weather(days=1)]", "a required argument is missing"),
        ("[Get Weather(city)]", "a function call cannot be read"),
    ],
)
def test_toolace_reject_has_its_reason(text, expected, reason):
    assert reason(convert_toolace, toolace("q", text)) == expected


SYSTEM = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if "
    f"required -\n{json.dumps(WEATHER, indent=4)}\n"
)
CALL = """<functioncall> {"name": "Get Weather", "arguments": '{"city": "L\\'Aquila"}'}"""
TRANSCRIPT = (
    "USER: How is it?\n\n\nASSISTANT: Let me see. " + CALL + " <|endoftext|>\n\n\n"
    'FUNCTION RESPONSE: {"degrees": 12}\n\n\nASSISTANT: 12 degrees. <|endoftext|>\n\n\n'
)


def test_glaive_transcript_becomes_tools_and_calls():
    chat = convert_glaive({"system": SYSTEM, "chat": TRANSCRIPT, "id": 3})

    assert [(m["role"], m["content"]) for m in chat.messages] == [
        ("user", "How is it?"),
        ("assistant", "Let me see."),
        ("tool", '{"degrees": 12}'),
        ("assistant", "12 degrees."),
    ]
    function = {"name": "Get Weather", "arguments": {"city": "L'Aquila"}}
    assert chat.messages[1]["tool_calls"] == [{"type": "function", "function": function}]
    assert chat.tools[0]["function"]["name"] == "Get Weather"
    assert chat.keys == {"id": "3"}


def test_glaive_calls_stand_in_conversations_too():
    turns = [
        {"role": "system", "content": SYSTEM.removeprefix("SYSTEM: ")},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": CALL},
    ]

    chat = convert_glaive({"messages": turns})

    assert chat.messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "L'Aquila"}


def test_a_conversation_without_functions_keeps_its_system_prompt():
    row = {"system": "SYSTEM: No functions here.\n", "chat": "USER: q\n\nASSISTANT: a"}

    assert convert_glaive(row).messages[0] == {"role": "system", "content": "No functions here."}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"system": "", "chat": "Hello. USER: q"}, "not a transcript"),
        ({"system": "", "chat": ""}, "no `chat`"),
        ({"system": SYSTEM, "chat": "USER: q\n\nASSISTANT: <functioncall> f(x)"},
         "broken JSON inside a field"),
        ({"system": "s", "chat": "USER: q\n\nASSISTANT: " + CALL},
         "a call to an undeclared function"),
        ({"messages": [{"role": "system", "content": SYSTEM}]}, "no user turn"),
    ],
)  # fmt: skip
def test_glaive_reject_has_its_reason(row, expected, reason):
    assert reason(convert_glaive, row) == expected


def test_json_that_declares_nothing_is_part_of_a_prompt():
    text = 'Answer as {"colour": "red"}, never {broken.'

    assert find_functions(text) == (text, ())
