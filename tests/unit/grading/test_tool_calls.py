import pytest

from posttrain.grading.tool_calls import (
    ToolCall,
    accept_calls,
    match_calls,
    parse_tool_calls,
)

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather.get",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer", "default": 1},
                },
                "required": ["city"],
            },
        },
    },
)


def call(name, **arguments):
    return ToolCall(name, arguments)


def reference(*calls):
    return [{"function": {"name": c.name, "arguments": dict(c.arguments)}} for c in calls]


@pytest.mark.parametrize(
    ("text", "calls", "parse"),
    [
        (
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
            [call("f", a=1), call("g")],
            "tag",
        ),
        ('I look.\n<tool_call>{"name": "f", "arguments": {}}', [call("f")], "tag"),
        ("<tool_call>f(a=1)</tool_call>", [call("f", a=1)], "tag"),
        ('{"name": "f", "parameters": {"a": null}}', [call("f", a=None)], "json"),
        ('[{"name": "f", "arguments": "{\\"a\\": 1}"}]', [call("f", a=1)], "json"),
        ('{"type": "function", "function": {"name": "f", "arguments": {}}}', [call("f")], "json"),
        ('```json\n{"name": "f", "arguments": {"a": [1]}}\n```', [call("f", a=[1])], "json"),
        ("[f(a=-1.5), a.b(c={'d': True})]", [call("f", a=-1.5), call("a.b", c={"d": True})],
         "python"),
        ("f(a=true, b=null)\ng(x='y')", [call("f", a=True, b=None), call("g", x="y")], "python"),
        ("weather.get('Rome', 3)", [call("weather.get", city="Rome", days=3)], "python"),
        ("<think>f(x)</think>\n\nf(a=(1, 2))", [call("f", a=[1, 2])], "python"),
    ],
)  # fmt: skip
def test_calls_are_read_in_every_writing(text, calls, parse):
    found = parse_tool_calls(text, TOOLS)
    assert (list(found.calls), found.parse) == (calls, parse)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{</tool_call>",
        '<tool_call>{"name": "f", "argum',
        '<tool_call>{"arguments": {}}</tool_call>',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "{"}',
        "f(a=__import__('os').system('true'))",
        "f(a=open('/etc/passwd'))",
        "f(a=[x for x in y])",
        "f(a=1, a=2)",
        "f(**{'a': 1})",
        "f(1)",
        "f(a=1) + g()",
        "f(" + "(" * 5000 + ")" * 5000 + ")",
        "f(a=" + "[" * 100_000 + ")",
    ],
)
def test_what_is_no_literal_call_is_broken_and_never_run(text):
    found = parse_tool_calls(text)
    assert (found.calls, found.parse) == ((), "broken")


@pytest.mark.parametrize("text", ["", "It is noon.", "[1, 2]", '{"a": 1}', "Use f (or g)."])
def test_words_are_no_call(text):
    assert parse_tool_calls(text).parse == "none"


@pytest.mark.parametrize(
    ("calls", "mistake"),
    [
        ([call("weather.get", city="Rome")], None),
        ([call("weather.get", city=" rome ", days=1)], None),
        ([call("weather.get", city="Rome", days=1.0)], None),
        ([], "no_call"),
        ([call("weather", city="Rome")], "wrong_name"),
        ([call("weather.get")], "missing_argument"),
        ([call("weather.get", city="Rom")], "wrong_value"),
        ([call("weather.get", city="Rome", days=2)], "wrong_value"),
        ([call("weather.get", city="Rome", days=True)], "wrong_value"),
        ([call("weather.get", city="Rome", unit="C")], "extra_argument"),
        ([call("weather.get", city="Rome"), call("weather.get", city="Oslo")], "extra_call"),
    ],
)
def test_one_call_is_compared_by_name_and_arguments(calls, mistake):
    accepted = accept_calls(reference(call("weather.get", city="Rome")), TOOLS)
    assert match_calls(calls, accepted) == mistake


def test_a_default_that_the_reference_writes_may_be_left_out():
    accepted = accept_calls(reference(call("weather.get", city="Rome", days=1)), TOOLS)
    assert match_calls([call("weather.get", city="Rome")], accepted) is None
    accepted = accept_calls(reference(call("weather.get", city="Rome", days=2)), TOOLS)
    assert match_calls([call("weather.get", city="Rome")], accepted) == "missing_argument"


def test_parallel_calls_match_in_any_order_one_to_one():
    accepted = accept_calls(reference(call("f", a=1), call("f", a=2), call("g")))
    assert match_calls([call("g"), call("f", a=2), call("f", a=1)], accepted) is None
    assert match_calls([call("g"), call("f", a=2)], accepted) == "missing_call"
    assert match_calls([call("g"), call("f", a=2), call("f", a=2)], accepted) == "wrong_value"


def test_a_call_that_fits_two_leaves_the_other_its_own():
    possible = [{"f": {"a": [1, 2]}}, {"f": {"a": [1]}}]
    accepted = accept_calls([], possible=possible)
    assert match_calls([call("f", a=1), call("f", a=2)], accepted) is None


def test_accepted_values_are_those_of_bfcl():
    possible = [{"f": {"city": ["Rome", "Roma"], "unit": ["C", ""], "box": [{"w": [1, 2]}]}}]
    accepted = accept_calls([], possible=possible)
    assert match_calls([call("f", city="roma", box={"w": 2})], accepted) is None
    assert match_calls([call("f", city="Rome", unit="F", box={"w": 2})], accepted) == "wrong_value"
    assert match_calls([call("f", city="Rome", box={"w": 3})], accepted) == "wrong_value"


def test_where_nothing_is_expected_a_call_is_a_mistake():
    assert match_calls([], ()) is None
    assert match_calls([call("f")], ()) == "unexpected_call"
