"""Which of a model's answers become a pair."""

import pytest

from posttrain.runs.pairs import NOT_FINISHED, ONE_TEXT, SAME_WORTH, Answer, choose_pairs


def answers(*scores):
    return [Answer(f"answer {i}", score) for i, score in enumerate(scores)]


def texts(pairs):
    return [(chosen.text, rejected.text) for chosen, rejected in pairs]


def test_the_best_goes_with_the_worst():
    assert texts(choose_pairs(answers(0.1, 0.0, 1.1, 1.0), 1)) == [("answer 2", "answer 1")]


def test_of_equal_answers_the_first_written_comes_first():
    assert texts(choose_pairs(answers(0, 1, 0, 1), 1)) == [("answer 1", "answer 0")]


def test_several_pairs_share_no_answer_and_each_has_a_better_one():
    assert texts(choose_pairs(answers(0, 1, 2, 3, 1), 9)) == [
        ("answer 3", "answer 0"),
        ("answer 2", "answer 1"),
    ]


def test_no_pair_of_equal_answers():
    assert choose_pairs(answers(1, 1, 1), 1) == SAME_WORTH


def test_an_unfinished_answer_is_not_chosen_but_may_be_rejected():
    cut = Answer("cut of", 1.0, finished=False)
    assert choose_pairs([cut, Answer("whole", 0.0)], 1) == NOT_FINISHED
    assert texts(choose_pairs([cut, Answer("best", 1.1)], 1)) == [("best", "cut of")]


def test_one_text_is_one_answer():
    # Written to its end once and cut off once: worth different things, and the same to read.
    same = [Answer("6", 1.0, finished=False), Answer("6", 1.1)]
    assert choose_pairs(same, 1) == ONE_TEXT
    assert texts(choose_pairs([*same, Answer("7", 0.0)], 2)) == [("6", "7")]


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_answer_without_text_is_none(text):
    assert choose_pairs([Answer(text, 0.0), Answer(text, 0.0)], 1) == ONE_TEXT
    assert choose_pairs([Answer(text, 0.0), Answer("6", 1.0)], 1) == ONE_TEXT
