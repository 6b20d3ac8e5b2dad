import json

import pytest

from posttrain.data.formats.tools import check_calls, read_tools


def parameters(value):
    (tool,) = read_tools([{"name": "f", "parameters": value}])
    return tool["function"]["parameters"]


def kind(text):
    return parameters({"x": {"type": text}})["properties"]["x"]


def test_bare_and_wrapped_declarations_become_the_same():
    bare = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}

    assert read_tools([bare, {"type": "function", "function": bare}]) == (
        {"type": "function", "function": bare},
    )


@pytest.mark.parametrize("value", [None, "", " ", "[]", []])
def test_no_tools_are_no_tools(value):
    assert read_tools(value) == ()


@pytest.mark.parametrize("value", [None, {}, {"type": "object"}, {"type": "dict"}])
def test_a_function_may_have_no_parameters(value):
    assert parameters(value) == {"type": "object", "properties": {}}


def test_types_of_the_leaderboard_become_json_schema():
    shown = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "description": "A."},
            "b": {"type": "tuple", "items": {"type": "dict", "properties": {"c": {"type": "any"}}}},
        },
        "required": ["a"],
    }

    assert parameters(shown) == {
        "type": "object",
        "properties": {
            "a": {"type": "number", "description": "A."},
            "b": {"type": "array", "items": {"type": "object", "properties": {"c": {}}}},
        },
        "required": ["a"],
    }


def test_xlam_parameters_become_json_schema_also_one_that_is_called_type():
    shown = {
        "type": {"type": "str", "description": "T.", "default": "game"},
        "place": {"type": "str"},
        "limit": {"type": "int, optional"},
    }

    assert parameters(shown) == {
        "type": "object",
        "properties": {
            "type": {"type": "string", "description": "T.", "default": "game"},
            "place": {"type": "string"},
            "limit": {"type": "integer"},
        },
        "required": ["place"],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("List[int]", {"type": "array", "items": {"type": "integer"}}),
        ("Tuple[float, float]", {"type": "array", "items": {"type": "number"}}),
        ("Tuple[float, str]", {"type": "array"}),
        ("list", {"type": "array"}),
        ("Dict[str, Any]", {"type": "object"}),
        (
            "List[Dict[str, int]], optional",
            {"type": "array", "items": {"type": "object"}},
        ),
        ("Optional[str]", {"type": "string"}),
        ("str | None", {"type": "string"}),
        ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ("any", {}),
        ("Callable[[float], float]", {"description": "(type: Callable[[float], float])"}),
        (["string", "null"], {"type": ["string", "null"]}),
    ],
)
def test_named_types_are_understood_or_told_in_words(text, expected):
    assert kind(text) == expected


def test_requirement_may_stand_on_the_property():
    value = {"type": "object", "properties": {"x": {"type": "string", "required": True}}}

    assert parameters(value) == {
        "type": "object",
        "properties": {"x": {"type": "string"}},
        "required": ["x"],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{", "broken JSON inside a field"),
        ("3", "`tools` is not a list of objects"),
        (["f"], "`tools` is not a list of objects"),
        ([{}], "a declared function has no name"),
        ([{"function": {"name": 3}}], "a declared function has no name"),
        (
            [{"name": "f", "parameters": ["x"]}],
            "the parameters of a declared function cannot be read",
        ),
        (
            [{"name": "f"}, {"name": "f", "description": "other"}],
            "two different functions share a name",
        ),
    ],
)
def test_declarations_that_cannot_be_read_have_their_reason(value, expected, reason):
    assert reason(read_tools, value) == expected


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("g", {"x": 1}, "a call to an undeclared function"),
        ("f", {"y": 1}, "a required argument is missing"),
    ],
)
def test_calls_must_fit_the_declarations(name, arguments, expected, reason):
    tools = read_tools(json.dumps([{"name": "f", "parameters": {"x": {"type": "int"}}}]))
    call = {"function": {"name": name, "arguments": arguments}}
    good = {"function": {"name": "f", "arguments": {"x": None, "z": 1}}}

    check_calls([{"role": "assistant", "tool_calls": [good]}], tools)
    messages = [{"role": "user"}, {"role": "assistant", "tool_calls": [good, call]}]
    assert reason(check_calls, messages, tools) == expected
