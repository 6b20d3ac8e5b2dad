import pytest

from posttrain.data.formats import detect_format
from posttrain.data.formats.prompt import convert_prompt

QUESTION = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    "prompt", ["q", [QUESTION], "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"]
)
def test_a_prompt_is_text_messages_or_rendered_text(prompt):
    chat = convert_prompt({"prompt": prompt, "data_source": "own"})

    assert (list(chat.messages), chat.reference) == ([QUESTION], None)
    assert list(chat.prompt) == [QUESTION]
    assert chat.keys == {"data_source": "own"}


@pytest.mark.parametrize(
    ("fields", "reference"),
    [
        ({"reference": "7"}, "7"),
        ({"answer": 7}, "7"),
        ({"ground_truth": "7", "reward_model": {"ground_truth": "8"}}, "7"),
        ({"reward_model": {"style": "rule", "ground_truth": "8"}}, "8"),
        ({"answer": ["7"], "reward_model": "rule"}, None),
    ],
)
def test_references_go_by_several_names(fields, reference):
    assert convert_prompt({"prompt": "q", **fields}).reference == reference


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": ""}, "no `prompt`"),
        ({"prompt": []}, "no `prompt`"),
        ({"prompt": 3}, "`prompt` is not text"),
        ({"prompt": ["q"]}, "a message is not {role, content}"),
    ],
)
def test_reject_has_its_reason(row, expected, reason):
    assert reason(convert_prompt, row) == expected


def test_prompts_are_found_where_nothing_answers_them():
    assert detect_format([{"prompt": "q", "answer": "7"}], "rows")[0] == "prompt"
    assert detect_format([{"prompt": "q", "completion": "a"}], "rows") == (
        "prompt_completion",
        "1 of the first 1 rows have `prompt`, `completion`",
    )
