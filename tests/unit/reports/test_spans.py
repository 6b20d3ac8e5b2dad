import time

import pytest

from posttrain.grading.answers import find_math_answer, find_numeric_answer
from posttrain.grading.choices import find_letter
from posttrain.reports.spans import count_utf16, find_answer_spans


def shown(completion, found):
    spans = find_answer_spans(completion, found.text, found.parse)
    return [completion[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("completion", "places"),
    [
        ("4 + 4 = 8\n#### 8", ["8"]),
        (r"First 8, so \boxed{8}. 8 it is.", [r"\boxed{8}"]),
        (
            r"\boxed{1}, then $\boxed{2}$ and $\boxed{3}$",
            [r"\boxed{2}", r"\boxed{3}"],
        ),
        ("7 apples. The answer is 7. I hope 7 helps.", ["7"]),
        ("We add 2 and 2, which is 22, I think", ["22"]),
        ("There is nothing in here to be found at all", []),
    ],
)
def test_math_answers_are_found_where_they_stand(completion, places):
    assert shown(completion, find_math_answer(completion)) == places


def test_the_place_is_that_of_the_parse_and_not_just_the_same_text():
    completion = "8 boxes.\n#### 8\nI am sure of 8."
    found = find_numeric_answer(completion)
    assert find_answer_spans(completion, found.text, found.parse) == [(14, 15)]
    stated = "The answer is 8 because 8 is 8"
    found = find_numeric_answer(stated)
    assert found.parse == "stated"
    assert find_answer_spans(stated, found.text, found.parse) == [(14, 15)]


def test_letters_stand_at_the_front():
    completion = "B. The wind, and not A or B."
    found = find_letter(completion, "ABCD")
    assert find_answer_spans(completion, found.text, found.parse) == [(0, 1)]


def test_calls_are_whole_tags():
    completion = 'Sure. <tool_call>{"name": "f"}</tool_call> <tool_call>{"na'
    spans = find_answer_spans(completion, "f()", "tag")
    assert [completion[a:b] for a, b in spans] == [
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"na',
    ]


def test_an_answer_that_is_not_in_the_text_has_no_place():
    assert find_answer_spans("the text", "B", "likelihood") == []
    assert find_answer_spans("the text", "42", "last_number") == []


def test_places_are_counted_as_a_browser_counts():
    text = "😀é 😀 42"
    assert count_utf16(text, [(5, 7)]) == [(7, 9)]
    assert text.encode("utf-16-le")[14:18].decode("utf-16-le") == "42"


def test_hostile_texts_are_searched_in_time():
    started = time.process_time()
    find_answer_spans(r"\boxed{1}, " * 90_000, "2", "boxed")
    find_answer_spans("answer " * 140_000, "2", "stated")
    assert time.process_time() - started < 3
