import json
from collections import Counter

import pytest

from posttrain.items import format_item, read_item
from posttrain.samples.preference import FLAWS, generate_mcq_preference, generate_preference

ROWS = list(generate_preference(390, seed=1))


def rows_with(flaw):
    found = [row for row in ROWS if row["metadata"]["flaw"] == flaw]
    assert found
    return found


def rejected_item(row):
    return json.loads(row["rejected"]["content"])


def texts(item):
    return list(item["options"].values())


def test_same_seed_gives_the_same_rows_and_another_seed_others():
    assert list(generate_preference(390, seed=1)) == ROWS
    assert list(generate_preference(390, seed=2)) != ROWS
    assert list(generate_preference(20, seed=1)) == ROWS[:20]


def test_row_shape():
    for row in ROWS:
        assert set(row) == {"prompt", "chosen", "rejected", "metadata"}
        assert [message["role"] for message in row["prompt"]] in (["user"], ["system", "user"])
        assert row["chosen"]["content"] != row["rejected"]["content"]
        assert row["rejected"]["content"].strip()


def test_the_chosen_score_is_higher_and_both_lie_between_0_and_1():
    for row in ROWS:
        scores = row["metadata"]
        assert 0 <= scores["rejected_score"] < scores["chosen_score"] <= 1


def test_a_worse_flaw_scores_lower():
    worst = max(row["metadata"]["rejected_score"] for row in rows_with("malformed_json"))
    mild = min(row["metadata"]["rejected_score"] for row in rows_with("missing_explanation"))
    assert worst < mild


def test_every_flaw_comes_equally_often():
    counts = Counter(row["metadata"]["flaw"] for row in ROWS)
    assert counts == {flaw.name: 390 // len(FLAWS) for flaw in FLAWS}


def test_chosen_items_are_whole():
    names = {flaw.name for flaw in FLAWS if flaw.asks_for_item}
    for row in ROWS:
        if row["metadata"]["flaw"] not in names:
            continue
        text = row["chosen"]["content"]
        item = read_item(text)
        assert format_item(item) == text
        assert f'Option {item.answer} ("{item.options[item.answer]}")' in item.explanation
        assert row["prompt"][0]["content"].startswith("Write one multiple-choice item.")


def test_pairs_of_items_alone():
    rows = list(generate_mcq_preference(16, seed=1))
    assert all([message["role"] for message in row["prompt"]] == ["user"] for row in rows)
    assert {row["metadata"]["flaw"] for row in rows} == {f.name for f in FLAWS if f.asks_for_item}


def test_wrong_key_changes_the_key_alone():
    for row in rows_with("wrong_key"):
        good, bad = json.loads(row["chosen"]["content"]), rejected_item(row)
        assert bad["answer"] != good["answer"]
        assert bad | {"answer": good["answer"]} == good


def test_two_right_options_hold_the_right_words_twice():
    for row in rows_with("two_right_options"):
        item = rejected_item(row)
        right = item["options"][item["answer"]]
        assert [text.strip('"') for text in texts(item)].count(right) == 2


@pytest.mark.parametrize(
    ("flaw", "different", "total"), [("duplicate_options", 3, 4), ("missing_option", 3, 3)]
)
def test_flawed_options(flaw, different, total):
    for row in rows_with(flaw):
        item = rejected_item(row)
        assert len(texts(item)) == total
        assert len(set(texts(item))) == different
        assert item["answer"] in item["options"]


def test_missing_explanation_is_empty():
    for row in rows_with("missing_explanation"):
        assert rejected_item(row)["explanation"] == ""


@pytest.mark.parametrize("flaw", ["malformed_json", "not_json"])
def test_broken_items_do_not_parse(flaw):
    for row in rows_with(flaw):
        with pytest.raises(json.JSONDecodeError):
            rejected_item(row)


def test_off_standard_item_is_whole_but_another_question():
    for row in rows_with("off_standard"):
        item = rejected_item(row)
        good = json.loads(row["chosen"]["content"])
        assert item["explanation"].split(". ", 1)[1] != (good["explanation"].split(". ", 1)[1])
        assert len(set(texts(item))) == 4


def test_wrong_answer_names_another_option():
    for row in rows_with("wrong_answer"):
        assert row["rejected"]["content"][:8] != row["chosen"]["content"][:8]
        assert row["rejected"]["content"].startswith("Option ")
