import json

import pytest

from posttrain.items import (
    Item,
    ItemRequest,
    build_item_messages,
    check_item,
    format_item,
    read_item,
    read_item_row,
)
from posttrain.samples.mcq import generate_mcq

GOOD = Item("Which?", {"A": "a", "B": "b", "C": "c", "D": "d"}, "B", 'Because "b".')


def changed(**changes) -> Item:
    return Item(**{**vars(GOOD), **changes})


def test_written_and_read_again_is_the_same_item():
    item = changed(question='She said "yes"\nand \\ 你好', stimulus="A passage.")
    assert read_item(format_item(item), stimulus="A passage.") == item


def test_every_sample_row_is_an_item_and_a_request():
    for row in generate_mcq(60, seed=5):
        request, item = read_item_row(row)
        assert item.options[row["answer"]] in row["explanation"]
        assert request.skill_id == row["standard"]
        assert read_item(format_item(item)) == item


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (changed(question=" \u200b\u3000"), "question is blank"),
        (changed(explanation=""), "explanation is blank"),
        (changed(options={"A": "a", "B": " ", "C": "c", "D": "d"}), "option B is blank"),
        (changed(options={"A": "a", "B": "b", "C": "c"}), "not A, B, C, D"),
        (changed(options={"A": "a", "B": "b", "C": "x  y", "D": " x y"}), "two options"),
        (changed(answer="E"), "none of the keys"),
    ],
)
def test_what_no_pupil_can_answer_is_refused(item, reason):
    with pytest.raises(ValueError, match=reason):
        check_item(item)


def test_options_may_differ_in_a_capital_or_a_comma_only():
    check_item(changed(options={"A": "May", "B": "may", "C": "may,", "D": "m ay"}))


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"question": "x"}', "[" * 100_000, json.dumps({**vars(GOOD), "more": 1})]
)
def test_other_text_is_no_item(text):
    with pytest.raises(ValueError, match="not"):
        read_item(text)


def test_prompt_says_everything_that_is_asked_for_and_nothing_else():
    request = ItemRequest(
        "4", skill_id="L.4.1.A", instructions="About bees.", stimulus="Bees buzz."
    )
    (message,) = build_item_messages(request)
    assert message["role"] == "user"
    for part in ("Grade: 4", "Skill: L.4.1.A\n", "About bees.", "Bees buzz.", "Difficulty: medium"):
        assert part in message["content"]
    assert "Passage" not in build_item_messages(ItemRequest("4"))[0]["content"]


def test_row_without_a_field_says_which():
    row = next(generate_mcq(1, seed=0))
    with pytest.raises(ValueError, match="stem"):
        read_item_row({key: value for key, value in row.items() if key != "stem"})
