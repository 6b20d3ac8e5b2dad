import ast
import json
import math
import re
from collections import Counter
from datetime import date

from posttrain.samples.tool_catalogue import TOOLS
from posttrain.samples.tools import generate_tools

ROWS = list(generate_tools(300, seed=1))
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
}


def minutes(clock):
    """Minutes since midnight."""
    hours, rest = clock.split(":")
    return 60 * int(hours) + int(rest)


def declared(row):
    """The functions of a row, by name."""
    return {each["name"]: each for each in json.loads(row["messages"][0]["functions"])}


def parse_calls(text):
    """Each call as its name and its arguments; JSON's words are mapped outside of quotes."""
    words = {"true": "True", "false": "False", "null": "None"}
    pattern = re.compile(r'"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b')
    code = pattern.sub(lambda match: words.get(match[0], match[0]), text)
    calls = [statement.value for statement in ast.parse(code).body]
    return [
        (ast.unparse(call.func), {word.arg: ast.literal_eval(word.value) for word in call.keywords})
        for call in calls
    ]


def exchanges_with_calls(row):
    """Each calling turn as its calls and the results that follow it."""
    messages = row["messages"]
    for position, message in enumerate(messages):
        if message["function_calls"] is None:
            continue
        results = []
        for later in messages[position + 1 :]:
            if later["role"] != "environment":
                break
            results.append(json.loads(later["content"]))
        yield parse_calls(message["function_calls"]), results


def test_same_seed_gives_the_same_rows_and_another_seed_others():
    assert list(generate_tools(300, seed=1)) == ROWS
    assert [r["messages"] for r in generate_tools(300, seed=2)] != [r["messages"] for r in ROWS]
    assert list(generate_tools(20, seed=1)) == ROWS[:20]


def test_row_shape():
    for row in ROWS:
        assert set(row) == {"id", "messages", "source_dataset", "domain"}
        for message in row["messages"]:
            assert set(message) == {"role", "content", "functions", "function_calls"}
    assert len({row["id"] for row in ROWS}) == len(ROWS)


def test_functions_are_on_the_system_message_alone_and_calls_on_assistants_without_text():
    for row in ROWS:
        for position, message in enumerate(row["messages"]):
            assert (message["role"] == "system") == (position == 0)
            assert (message["functions"] is not None) == (position == 0)
            if message["function_calls"] is not None:
                assert message["role"] == "assistant"
            assert (message["content"] is None) == (message["function_calls"] is not None)


def test_last_message_is_text_of_the_assistant():
    for row in ROWS:
        assert row["messages"][-1]["role"] == "assistant"
        assert row["messages"][-1]["content"]


def test_calls_are_declared_with_required_arguments_of_the_right_type():
    for row in ROWS:
        functions = declared(row)
        for calls, _ in exchanges_with_calls(row):
            for name, arguments in calls:
                schema = functions[name]["parameters"]
                assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
                for key, value in arguments.items():
                    entry = schema["properties"][key]
                    assert isinstance(value, TYPES[entry["type"]])
                    assert isinstance(value, bool) == (entry["type"] == "boolean")
                    assert value in entry.get("enum", [value])


def test_every_call_has_its_result_and_no_result_comes_without_a_call():
    for row in ROWS:
        answered = 0
        for calls, results in exchanges_with_calls(row):
            answered += len(results)
            if len(results) == 1 and isinstance(results[0], list):
                results = results[0]
            assert len(results) == len(calls)
        assert answered == sum(m["role"] == "environment" for m in row["messages"])


def test_every_row_declares_tools_that_it_does_not_call():
    for row in ROWS:
        called = {name for calls, _ in exchanges_with_calls(row) for name, _ in calls}
        assert len(set(declared(row)) - called) >= 2


def test_the_variants_all_occur():
    counts = Counter()
    for row in ROWS:
        sizes = tuple(len(calls) for calls, _ in exchanges_with_calls(row))
        users = sum(message["role"] == "user" for message in row["messages"])
        counts[("parallel" if max(sizes, default=0) > 1 else len(sizes), users)] += 1
    assert {(1, 1), ("parallel", 1), (2, 1), (0, 1), (2, 2), (1, 2)} <= set(counts)


def test_result_styles_and_boolean_styles_both_occur():
    sizes = {
        len(results)
        for row in ROWS
        for calls, results in exchanges_with_calls(row)
        if len(calls) == 2
    }
    text = "\n".join(m["function_calls"] or "" for row in ROWS for m in row["messages"])
    assert sizes == {1, 2}
    assert "=true" in text
    assert "=True" in text


def test_tools_cover_domains_and_types():
    kinds = {parameter.kind for tool in TOOLS for parameter in tool.parameters}
    assert len(TOOLS) >= 8
    assert len({tool.domain for tool in TOOLS}) >= 4
    assert {"string", "integer", "number", "boolean", "array of string"} <= kinds
    called = {name for row in ROWS for calls, _ in exchanges_with_calls(row) for name, _ in calls}
    assert called == {tool.name for tool in TOOLS}


def answered_calls(row):
    """Each call's name, arguments and result, with the text that the assistant writes next."""
    texts = [m["content"] for m in row["messages"] if m["role"] != "environment"]
    position = 0
    for calls, results in exchanges_with_calls(row):
        position = texts.index(None, position) + 1
        text = next(text for text in texts[position:] if text is not None)
        results = results if len(results) == len(calls) else results[0]
        for (name, arguments), result in zip(calls, results, strict=True):
            yield name, arguments, result, text


def test_the_next_text_tells_the_results():
    told = {
        "calculator.apply": "result",
        "calendar.weekday": "weekday",
        "library.reserve": "reservation",
        "orders.latest": "order_number",
        "timetable.next_departure": "departure",
        "translation.word": "translation",
        "units.convert": "value",
        "weather.air_quality": "index",
    }
    names = Counter()
    for row in ROWS:
        for name, _, result, text in answered_calls(row):
            if name in told:
                names[name] += 1
                assert str(result[told[name]]) in text
    assert set(names) == set(told)


def test_results_are_right_where_they_can_be_worked_out():
    names = Counter()
    for row in ROWS:
        for name, arguments, result, _ in answered_calls(row):
            names[name] += 1
            if name == "calendar.weekday":
                assert result["weekday"] == f"{date.fromisoformat(arguments['date']):%A}"
            if name == "calculator.apply":
                compute = sum if arguments["operation"] == "add" else math.prod
                assert result["result"] == compute(arguments["numbers"])
            if name == "timetable.next_departure":
                gap = 30 if arguments["mode"] == "train" else 20
                wait = minutes(result["departure"]) - minutes(arguments["after"])
                assert 0 < wait <= gap
    assert names["calendar.weekday"]
    assert names["calculator.apply"]
    assert names["timetable.next_departure"]


def test_the_second_of_two_calls_uses_the_result_of_the_first():
    checked = 0
    for row in ROWS:
        steps = list(exchanges_with_calls(row))
        users = sum(message["role"] == "user" for message in row["messages"])
        if len(steps) == 2 and users == 1:
            checked += 1
            values = json.dumps(steps[0][1])
            assert any(json.dumps(v) in values for v in steps[1][0][0][1].values() if v is not True)
    assert checked > 20
