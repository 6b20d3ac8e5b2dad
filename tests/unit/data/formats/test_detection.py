from typing import get_args

import pytest

from posttrain.config.data import FormatName
from posttrain.data.formats import FORMATS, choose_format, detect_format
from posttrain.data.readers import read_rows
from posttrain.data.records import RowError, check_chat
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
        ({"conversation": []}, "sharegpt"),
        ({"conversation": [], "label": True}, "kto"),
        ({"query": "a", "tools": "[]", "answers": "[]"}, "xlam"),
        ({"query": "a", "response": "b"}, "query_response"),
        ({"problem": "a", "solution": "b"}, "math"),
        ({"question": "a", "answer": "b\n#### 2"}, "gsm8k"),
        ({"question": "a", "answer": "b"}, "question_answer"),
        ({"question": "a", "answer": "b", "choices": ["b", "c"]}, "multiple_choice"),
        ({"question": {"stem": "a", "choices": []}, "answerKey": "B"}, "multiple_choice"),
        ({"stem": "a", "options": [], "answer": "B", "explanation": "c"}, "mcq"),
        ({"prompt": "a", "completion": "b", "label": "False"}, "kto"),
        ({"prompt": "a", "response": "b"}, "prompt_response"),
        ({"system": "SYSTEM: s", "chat": "USER: a ASSISTANT: b"}, "glaive"),
        ({"conversations": [{"from": "gpt", "value": "<functioncall> {}"}]}, "glaive"),
        (
            {"system": '[{"name": "f"}]', "conversations": [{"from": "gpt", "value": "[f(x=1)]"}]},
            "toolace",
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": 'use [{"name": "f"}]'},
                    {"role": "assistant", "content": "[f()]"},
                ]
            },
            "toolace",
        ),
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
        ({"conversation": [], "chosen": {}, "rejected": {}}, "sharegpt_preference"),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "alpaca_preference"),
        ({"chosen": [], "rejected": []}, "messages_preference"),
        ({"chosen_messages": [], "rejected_messages": []}, "v1_preference"),
        ({"chosen": "\n\nHuman: a", "rejected": "Human: a"}, "hh_rlhf"),
        (
            {"prompt": [], "chosen": [TURNS[1], TURNS[0], TURNS[1]], "rejected": [TURNS[1]]},
            "first_turn_preference",
        ),
        ({"prompt": [], "chosen": [TURNS[1]], "rejected": [TURNS[1]]}, "preference"),
        ({"prompt": [], "chosen": TURNS, "rejected": TURNS}, "preference"),
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
    with pytest.raises(DataError, match=f"they look like {other} .*: such rows are for a"):
        detect_format([row], "rows.json", kind)


@pytest.mark.parametrize(
    ("row", "kind", "hint"),
    [
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "chat",
            "a `dpo` or `reward` stage of a recipe, and `convert` writes them with to=preference",
        ),
        (
            {"instruction": "a", "output": "b"},
            "preference",
            "an `sft` stage of a recipe, and `convert` writes them with to=messages",
        ),
        (
            {"text": "a"},
            "chat",
            "they hold plain text: such rows are for a `pretrain` or `mlm` stage of a recipe, and "
            "`convert` writes them with to=text",
        ),
    ],
)
def test_rows_of_another_kind_are_sent_where_they_can_be_used(row, kind, hint):
    with pytest.raises(DataError) as caught:
        detect_format([row], "rows.json", kind)

    assert str(caught.value).endswith(hint)


def test_a_conversation_that_is_no_list_is_not_taken_for_turns():
    with pytest.raises(DataError, match="no known chat format has the fields `conversation`"):
        detect_format([{"conversation": 3}], "rows.json")


def test_rows_of_several_shapes_are_told_by_their_names_and_numbers():
    rows = [{"instruction": "a", "output": "b"}] * 3 + [{"messages": TURNS}] * 2 + [{"x": 1}]

    with pytest.raises(DataError) as caught:
        detect_format(rows, "rows.json")

    assert str(caught.value) == (
        "rows.json: the first 6 rows are of several shapes: 3 alpaca (`instruction`, `output`), "
        "2 messages (`messages`), 1 with `x`; put the rows of each shape into a file of their "
        "own; a recipe takes several files as `sources`"
    )


def test_text_that_is_not_rendered_is_no_conversation():
    with pytest.raises(DataError, match="no known chat format has the fields `text`"):
        detect_format([{"text": "a"}, {"text": None}], "rows.json")


def test_an_explicit_format_wins():
    row = {"instruction": "a", "output": "b", "response": "c"}

    assert choose_format("dolly", [row], "rows.json", "chat") == (
        "dolly",
        "as `format: dolly` says",
    )


@pytest.mark.parametrize(
    ("name", "stages"), [("preference", "`dpo` or `reward`"), ("text", "`pretrain` or `mlm`")]
)
def test_an_explicit_format_of_another_kind_is_refused(name, stages):
    refusal = f"rows of the format {name} are no chat rows; such rows are for a {stages} stage"
    with pytest.raises(DataError, match=refusal):
        choose_format(name, [{"prompt": "a"}], "rows.json", "chat")


def test_a_recipe_can_name_every_format():
    assert set(get_args(FormatName)) == {"auto", "text", *FORMATS}


@pytest.mark.parametrize("row", [{"messages": 3}, {"messages": ["a"]}, {"text": 3}, {"label": 1}])
def test_odd_values_do_not_stop_detection(row):
    whole = {"instruction": "a", "output": "b"}

    assert detect_format([row, whole, whole], "rows.json")[0] == "alpaca"


@pytest.mark.parametrize(
    ("name", "kind", "wanted", "records", "rejects"),
    [
        ("llamafactory/alpaca_en_demo.json", "chat", "alpaca", 999, 0),
        ("llamafactory/identity.json", "chat", "alpaca", 91, 0),
        ("llamafactory/glaive_toolcall_en_demo.json", "chat", "sharegpt", 300, 0),
        ("llamafactory/kto_en_demo.json", "chat", "kto", 150, 150),
        ("llamafactory/v1_sft_demo.jsonl", "chat", "messages", 500, 0),
        ("llamafactory/dpo_en_demo.json", "preference", "sharegpt_preference", 300, 0),
        ("llamafactory/v1_dpo_demo.jsonl", "preference", "v1_preference", 10, 0),
        ("formats/litgpt/alpaca.json", "chat", "alpaca", 23, 0),
        ("formats/litgpt/dolly.json", "chat", "dolly", 12, 0),
        ("formats/litgpt/longform_train.json", "chat", "input_output", 17, 0),
        ("formats/litgpt/longform_val.json", "chat", "input_output", 9, 0),
        ("formats/torchtune/alpaca_tiny.json", "chat", "alpaca", 100, 0),
        ("formats/torchtune/chat_tiny.json", "chat", "sharegpt", 1, 0),
        ("formats/torchtune/instruct_tiny.json", "chat", "dolly", 2, 0),
        ("formats/torchtune/hh_rlhf_tiny.json", "preference", "messages_preference", 1, 0),
        ("formats/torchtune/stack_exchange_paired_tiny.json", "preference",
         "stack_exchange", 25, 0),
        ("toolcall/dolci_real_row.jsonl", "chat", "dolci", 1, 0),
        ("toolcall/dolci_shaped_DERIVED_from_bfcl.jsonl", "chat", "dolci", 240, 0),
        ("toolcall/xlam_real_row.jsonl", "chat", "xlam", 1, 0),
        ("toolcall/trl_toolcall_sft.jsonl", "chat", "messages", 8, 0),
        ("toolcall/trl_toolcall_dpo.jsonl", "preference", "first_turn_preference", 8, 0),
        ("gsm8k/test.jsonl", "chat", "gsm8k", 1319, 0),
        ("math/math500.jsonl", "chat", "math", 500, 0),
        ("mcq/agieval/sat-en.jsonl", "chat", "multiple_choice", 206, 0),
        ("mcq/arc/ARC-Challenge-Dev.jsonl", "chat", "multiple_choice", 294, 0),
    ],
)  # fmt: skip
def test_every_real_file_is_found_and_all_its_rows_are_accounted_for(
    shared_data, name, kind, wanted, records, rejects
):
    rows = [row for _, row in read_rows(shared_data / name)]

    found, evidence = detect_format(rows[:50], name, kind)

    assert found == wanted, evidence
    refused = 0
    for row in rows:
        try:
            content = FORMATS[found].convert(row)
        except RowError:
            refused += 1
            continue
        answers = [content.chosen, content.rejected] if kind == "preference" else []
        for chat in [content.answered(answer) for answer in answers] or [content]:
            check_chat(chat)
    assert (len(rows) - refused, refused) == (records, rejects)
