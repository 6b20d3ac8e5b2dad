import json

import pytest

from posttrain.data.formats.dolly import convert_dolly
from posttrain.data.formats.math import convert_math
from posttrain.data.formats.messages_json import convert_messages_json
from posttrain.data.formats.prompt_completion import convert_prompt_completion
from posttrain.data.formats.query_response import convert_query_response
from posttrain.data.formats.xlam import convert_xlam
from posttrain.data.readers import read_rows


def pairs(chat):
    return [(m["role"], m["content"]) for m in chat.messages]


def test_dolly_context_follows_the_instruction():
    row = {"instruction": "When?", "context": "In 2000.", "response": "2000", "category": "qa"}

    assert pairs(convert_dolly(row)) == [("user", "When?\n\nIn 2000."), ("assistant", "2000")]
    assert convert_dolly(row).keys == {"category": "qa"}
    assert pairs(convert_dolly({**row, "context": "", "system": "s"})) == [
        ("system", "s"),
        ("user", "When?"),
        ("assistant", "2000"),
    ]


def test_query_response_with_history():
    row = {"query": "c", "response": "d", "history": [["a", "b"]], "source": "x"}

    chat = convert_query_response(row)

    assert [text for _, text in pairs(chat)] == ["a", "b", "c", "d"]
    assert chat.keys == {"source": "x"}


@pytest.mark.parametrize(
    ("solution", "reference"),
    [
        (r"So $\boxed{7}$.", "7"),
        (r"$\boxed{1}$, no: $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"$\boxed{\left\{ 1, \{2\} \right\}}$", r"\left\{ 1, \{2\} \right\}"),
        (r"$\fbox{3}$", "3"),
        (r"$\boxed 5$", "5"),
    ],
)
def test_math_reference_is_the_last_balanced_box(solution, reference):
    chat = convert_math({"problem": "p", "solution": solution, "subject": "Algebra", "level": 3})

    assert chat.reference == reference
    assert pairs(chat) == [("user", "p"), ("assistant", solution)]
    assert {key: chat.keys[key] for key in ("subject", "level")} == {
        "subject": "Algebra",
        "level": "3",
    }


def test_math_answer_is_also_kept_in_its_normal_writing():
    solution = r"So $\boxed{\dfrac12 \text{ cm}}$."

    chat = convert_math({"problem": "p", "solution": solution, "normalized_answer": "stale"})

    assert chat.reference == r"\dfrac12 \text{ cm}"
    assert chat.keys == {"normalized_answer": r"\frac{1}{2}"}


@pytest.mark.parametrize("solution", ["7", r"\boxed{7", r"\boxed{}"])
def test_math_without_an_answer_is_refused(solution, reason):
    assert reason(convert_math, {"problem": "p", "solution": solution}) == "no final answer"


def xlam(**changes):
    row = {
        "query": "q",
        "tools": json.dumps([{"name": "f", "parameters": {"x": {"type": "int"}}}]),
        "answers": json.dumps([{"name": "f", "arguments": {"x": 1}}] * 2),
    }
    return {**row, **changes}


def test_xlam_becomes_one_turn_with_all_calls():
    chat = convert_xlam(xlam())

    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert chat.messages[1] == {"role": "assistant", "content": "", "tool_calls": [call, call]}
    assert chat.tools[0]["function"]["parameters"]["required"] == ["x"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"answers": "[]"}, "a function call cannot be read"),
        ({"answers": None}, "no `answers`"),
        ({"query": ""}, "no `query`"),
        ({"tools": "[]"}, "a call to an undeclared function"),
        ({"answers": '[{"name": "f", "arguments": {}}]'}, "a required argument is missing"),
    ],
)
def test_xlam_reject_has_its_reason(changes, expected, reason):
    assert reason(convert_xlam, xlam(**changes)) == expected


def test_prompt_and_completion_are_texts_messages_or_rendered_text():
    question = {"role": "user", "content": "q"}
    answer = {"role": "assistant", "content": "a"}
    expected = [("user", "q"), ("assistant", "a")]

    for row in (
        {"prompt": "q", "completion": "a"},
        {"prompt": [question], "completion": [answer]},
        {
            "prompt": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
            "completion": "a<|im_end|>\n",
        },
    ):
        assert pairs(convert_prompt_completion(row)) == expected
    with_system = convert_prompt_completion({"prompt": "q", "completion": "a", "system": "s"})
    assert pairs(with_system) == [("system", "s"), *expected]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": [{"role": "user"}], "completion": "a"},
         "`prompt` and `completion` are of different shapes"),
        ({"prompt": "", "completion": "a"}, "no `prompt`"),
        ({"prompt": "q", "completion": None}, "no `completion`"),
        ({"prompt": "<|im_start|>user\nq<|im_end|>\n", "completion": "a"},
         "the rendered prompt does not end with the assistant's header"),
    ],
)  # fmt: skip
def test_prompt_completion_reject_has_its_reason(row, expected, reason):
    assert reason(convert_prompt_completion, row) == expected


def test_nested_parts_may_be_json_text():
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    tools = [{"type": "function", "function": {"name": "f"}}]

    chat = convert_messages_json(
        {"messages_json": json.dumps(messages), "tools_json": json.dumps(tools), "id": "1"}
    )

    assert (list(chat.messages), list(chat.tools), chat.keys) == (messages, tools, {"id": "1"})
    assert convert_messages_json({"messages_json": json.dumps(messages)}).tools == ()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages_json": None}, "no `messages_json`"),
        ({"messages_json": "["}, "broken JSON inside a field"),
        ({"messages_json": "{}"}, "no `messages`"),
        ({"messages_json": '[{"role": "user"}]', "tools_json": "{"}, "broken JSON inside a field"),
    ],
)
def test_json_text_reject_has_its_reason(row, expected, reason):
    assert reason(convert_messages_json, row) == expected


def test_references_of_all_real_math_rows_are_those_stated(shared_data):
    rows = [row for _, row in read_rows(shared_data / "math/math500.jsonl")]

    assert [convert_math(row).reference for row in rows] == [row["answer"] for row in rows]


def test_real_single_turn_rows_convert(shared_data):
    for convert, name, count in (
        (convert_dolly, "formats/litgpt/dolly.json", 12),
        (convert_dolly, "formats/torchtune/instruct_tiny.json", 2),
        (convert_xlam, "toolcall/xlam_real_row.jsonl", 1),
    ):
        rows = [row for _, row in read_rows(shared_data / name)]
        assert len([convert(row) for row in rows]) == count
