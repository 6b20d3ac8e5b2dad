from typing import get_args

import pytest

from posttrain.config.data import FormatName
from posttrain.data.formats import FORMATS, choose_format, detect_format
from posttrain.errors import DataError

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages_json": "[]", "tools_json": "[]"}, "messages_json"),
        ({"messages": TURNS, "label": True}, "kto"),
        ({"messages": TURNS, "label": "spam"}, "messages"),
        ({"messages": [{**TURNS[0], "functions": None}]}, "dolci"),
        ({"messages": [*TURNS, {"role": "environment", "content": ""}]}, "dolci"),
        ({"messages": TURNS, "tools": []}, "messages"),
        ({"messages": TURNS, "question_id": "1", "recipe_id": "2"}, "messages"),
        ({"conversations": []}, "sharegpt"),
        ({"query": "a", "tools": "[]", "answers": "[]"}, "xlam"),
        ({"query": "a", "response": "b"}, "query_response"),
        ({"problem": "a", "solution": "b"}, "math"),
        ({"question": "a", "answer": "b\n#### 2"}, "gsm8k"),
        ({"question": "a", "answer": "b"}, "question_answer"),
        ({"question": "a", "answer": "b", "choices": ["b", "c"]}, "gsm8k"),
        ({"input": "a", "output": "b"}, "input_output"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"instruction": "a", "context": "", "response": "b"}, "dolly"),
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"text": "<|im_start|>user\na<|im_end|>"}, "chatml"),
    ],
)
def test_conversations_are_found(row, name):
    assert detect_format([row], "rows.json")[0] == name


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"conversations": [], "chosen": {}, "rejected": {}}, "sharegpt_preference"),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "alpaca_preference"),
        ({"chosen": [], "rejected": []}, "messages_preference"),
        ({"chosen_messages": [], "rejected_messages": []}, "v1_preference"),
    ],
)
def test_pairs_are_found(row, name):
    assert detect_format([row], "rows.json", "preference")[0] == name


def test_an_answer_without_a_marker_is_learned_whole_and_why_is_said():
    rows = [{"question": "Capital of France?", "answer": "Paris."}] * 3
    name, evidence = detect_format(rows, "rows.json")
    assert name == "question_answer"
    assert evidence == (
        "3 of the first 3 rows have `question`, `answer` (none with a `####` line, which gsm8k has)"
    )
    messages = FORMATS[name].convert(rows[0]).messages
    assert [m["content"] for m in messages] == ["Capital of France?", "Paris."]


def test_one_marker_among_the_first_rows_makes_them_gsm8k():
    rows = [{"question": "a", "answer": "b"}] * 3 + [{"question": "a", "answer": "#### 2"}]
    assert detect_format(rows, "rows.json")[0] == "gsm8k"


@pytest.mark.parametrize("beside", ["instruction", "context", "prompt"])
def test_input_and_output_beside_a_question_are_not_the_whole_of_it(beside):
    row = {"input": "a", "output": "b"}
    assert FORMATS["input_output"].fits(row)
    assert not FORMATS["input_output"].fits({**row, beside: "c"})


def test_input_and_output_are_a_turn_each():
    content = FORMATS["input_output"].convert({"input": "a", "output": "b", "id": "7"})
    assert [(m["role"], m["content"]) for m in content.messages] == [
        ("user", "a"),
        ("assistant", "b"),
    ]
    assert content.keys == {"id": "7"}


def test_rows_that_fit_twice_are_said_to():
    row = {"instruction": "a", "output": "b", "response": "c"}

    name, evidence = detect_format([row], "rows.json")

    assert name == "alpaca"
    assert evidence == (
        "1 of the first 1 rows have `instruction`, `output`; they look like dolly "
        "(`instruction`, `response`) too: set `format` if that is meant"
    )


def test_a_vaguer_guess_is_not_mentioned():
    assert "too" not in detect_format([{"messages": [{"functions": "[]"}]}], "rows.json")[1]


@pytest.mark.parametrize(
    ("row", "kind", "other"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "chat", "preference"),
        ({"conversations": [], "chosen": {}, "rejected": {}}, "chat", "sharegpt_preference"),
        ({"instruction": "a", "output": "b"}, "preference", "alpaca"),
    ],
)
def test_rows_of_another_kind_are_called_by_their_name(row, kind, other):
    with pytest.raises(DataError, match=f"they look like {other} .*: choose a stage"):
        detect_format([row], "rows.json", kind)


def test_text_that_is_not_rendered_is_no_conversation():
    with pytest.raises(DataError, match="no known chat format has the fields `text`"):
        detect_format([{"text": "a"}, {"text": None}], "rows.json")


def test_an_explicit_format_wins():
    row = {"instruction": "a", "output": "b", "response": "c"}

    assert choose_format("dolly", [row], "rows.json", "chat") == (
        "dolly",
        "as `format: dolly` says",
    )


@pytest.mark.parametrize("name", ["preference", "text"])
def test_an_explicit_format_of_another_kind_is_refused(name):
    with pytest.raises(DataError, match=f"rows of the format {name} are no chat rows"):
        choose_format(name, [{"prompt": "a"}], "rows.json", "chat")


def test_a_recipe_can_name_every_format():
    assert set(get_args(FormatName)) == {"auto", "text", *FORMATS}


@pytest.mark.parametrize("row", [{"messages": 3}, {"messages": ["a"]}, {"text": 3}, {"label": 1}])
def test_odd_values_do_not_stop_detection(row):
    whole = {"instruction": "a", "output": "b"}

    assert detect_format([row, whole, whole], "rows.json")[0] == "alpaca"
