import pytest

from posttrain.data.formats.calls import UNREADABLE, read_calls


def plain(value):
    return [
        (call["function"]["name"], call["function"]["arguments"])
        for call in read_calls(value, "turn 1")
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f()", [("f", {})]),
        ('weather.forecast(q="Paris", days=5)', [("weather.forecast", {"q": "Paris", "days": 5})]),
        ("f(x=1)\ng(y='a')", [("f", {"x": 1}), ("g", {"y": "a"})]),
        ("[f(x=1), g(y=2)]", [("f", {"x": 1}), ("g", {"y": 2})]),
        ("f(x=1); g(y=2)", [("f", {"x": 1}), ("g", {"y": 2})]),
        ("f(\n  x=1,\n  y=[1,\n 2],\n)", [("f", {"x": 1, "y": [1, 2]})]),
        (
            "f(a=true, b=False, c=null, d=None)",
            [("f", {"a": True, "b": False, "c": None, "d": None})],
        ),
        ("f(a=-1, b=+2.5, c=1e3)", [("f", {"a": -1, "b": 2.5, "c": 1000.0})]),
        ("f(a=(1, 2), b={'k': [null]})", [("f", {"a": [1, 2], "b": {"k": [None]}})]),
        # Words and signs inside a string are text.
        ("f(a='true', b='g(x=1)\\ny, ]')", [("f", {"a": "true", "b": "g(x=1)\ny, ]"})]),
        ("f(a='it\\'s', b=\"say 'x'\")", [("f", {"a": "it's", "b": "say 'x'"})]),
        ('f(a="""one\ntwo""")', [("f", {"a": "one\ntwo"})]),
        ("f(a='C:\\d')", [("f", {"a": "C:\\d"})]),
        ("f(a='x=y')", [("f", {"a": "x=y"})]),
        ("f(a='今天')", [("f", {"a": "今天"})]),
        # Names that Python does not have.
        ("convert(from='EUR', class=2)", [("convert", {"from": "EUR", "class": 2})]),
        ("get-weather(user-id=3)", [("get-weather", {"user-id": 3})]),
        ("/api/v1.find(q=1)", [("/api/v1.find", {"q": 1})]),
        # JSON instead.
        ('[{"name": "f", "arguments": {"x": 1}}]', [("f", {"x": 1})]),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', [("f", {"x": 1})]),
        ('{"type": "function", "function": {"name": "f", "arguments": {}}}', [("f", {})]),
        ('[{"name": "f", "parameters": {"x": 1}}]', [("f", {"x": 1})]),
    ],
)
def test_calls_are_read(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "f",
        "",
        "[]",
        "[  ]",
        "f(1)",
        "f(x)",
        "f(x=1",
        "f(x=1))",
        "f(x=g(y=1))",
        "f(x=1+1)",
        "f(x=y)",
        "f(x=1, x=2)",
        "f(x='a)",
        "f(**{'x': 1})",
        "f(x=b'a')",
        "f(x=1j)",
        "f(x=...)",
        "f(x={1: 2})",
        "f(x={**a})",
        "f(x={1, 2})",
        "f(x=1e999)",
        "f(x=-true)",
        "f(x=f'{y}')",
        "f(x==1)",
        "f(x=__import__('os').getcwd())",
        "f(x=[i for i in y])",
        "f(x=" + "[" * 300 + "]" * 300 + ")",
        "I would call f(x=1)",
    ],
)
def test_what_is_no_call_is_refused(text, reason):
    assert reason(read_calls, text, "turn 1") == UNREADABLE


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('[{"name": "f"', "broken JSON inside a field"),
        ("[{}]", "a tool call has no function name"),
        ([3], "a tool call has no function name"),
        ({"name": "f", "arguments": [1]}, "tool call arguments are not an object"),
        ([], UNREADABLE),
    ],
)
def test_broken_json_calls_have_their_reason(value, expected, reason):
    assert reason(read_calls, value, "turn 1") == expected
