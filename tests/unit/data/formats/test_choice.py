import pytest

from posttrain.data.formats.choice import convert_choice
from posttrain.data.readers import read_rows

OPTIONS = ["(A)red", "(B)blue"]


def test_a_question_is_asked_with_its_options_and_answered_by_letter():
    row = {"passage": "p", "question": "Which?", "options": OPTIONS, "label": "B", "id": 3}

    chat = convert_choice(row)

    assert [message["content"] for message in chat.messages] == [
        "p\n\nWhich?\nA. red\nB. blue",
        "Answer: B",
    ]
    assert chat.reference == "B"
    # By its passage a question can be kept in one split with the others on it.
    assert chat.keys == {"passage": "p", "question": "Which?", "label": "B", "id": "3"}


@pytest.mark.parametrize("name", ["article", "context", "story", "paragraph", "stimulus"])
def test_a_passage_of_any_name_comes_before_the_question(name):
    row = {name: " p ", "question": "Which?", "options": OPTIONS, "answer": "B", "passage": None}

    assert convert_choice(row).messages[0]["content"] == "p\n\nWhich?\nA. red\nB. blue"
    assert convert_choice({**row, "passage": "p"}).messages == convert_choice(row).messages


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "choices": ["red", "blue"], "answer": 1},
        {"question": "Which?", "choices": ["red", "blue"], "answer": "blue"},
        {"question": "Which?", "options": {"A": "red", "B": "blue"}, "answer": "B"},
        {"question": "Which?", "choices": {"text": ["red", "blue"], "label": [1, 2]}, "answer": 2},
        {
            "question": {"stem": "Which?", "choices": [{"text": "red", "label": "A"},
                                                       {"text": "blue", "label": "B"}]},
            "answerKey": "B",
        },
    ],
)  # fmt: skip
def test_options_come_in_many_shapes(row):
    chat = convert_choice(row)

    assert chat.messages[0]["content"] == "Which?\nA. red\nB. blue"
    assert chat.reference == "B"


@pytest.mark.parametrize("more", [{"explanation": "Sky."}, {"other": {"solution": "Sky."}}])
def test_an_explanation_comes_before_the_answer(more):
    row = {"question": "Which?", "options": OPTIONS, "answer": "B", **more}

    assert convert_choice(row).messages[1]["content"] == "Sky.\nAnswer: B"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"question": ""}, "no `question`"),
        ({"options": None}, "no `options`"),
        ({"options": ["a"]}, "1 options"),
        ({"options": ["a", 3]}, "an option is not text"),
        ({"answer": "C"}, "the answer names no option"),
        ({"answer": 7}, "the answer names no option"),
        ({"passage": ["p"]}, "the passage is not text"),
        ({"context": {"p": 1}}, "the passage is not text"),
        ({"passage": "p", "article": "q"}, "two passages"),
    ],
)
def test_reject_has_its_reason(changes, expected, reason):
    row = {"question": "Which?", "options": OPTIONS, "answer": "B", **changes}

    assert reason(convert_choice, row) == expected


@pytest.mark.parametrize(
    ("name", "count"), [("mcq/arc/ARC-Challenge-Dev.jsonl", 294), ("mcq/agieval/sat-en.jsonl", 206)]
)
def test_every_real_question_converts(shared_data, name, count):
    rows = [row for _, row in read_rows(shared_data / name)]

    assert len([convert_choice(row) for row in rows]) == count
