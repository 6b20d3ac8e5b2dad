import pytest

from posttrain.data.contamination import find_contamination, normalize_text
from posttrain.data.records import Chat, Origin, Record, Text
from tests.unit.data.conftest import assistant, user


def problem(text, line=1, file="train.jsonl", **keys):
    return Record(Chat((user(text), assistant("a")), keys=keys), Origin(file, line))


def found(training, evaluation, keys=()):
    rejects, report = find_contamination(training, evaluation, keys)
    return [reject.origin.line for reject in rejects.values()], report


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many?", "how  many"),
        ("Ｈow many １２?", "how many 12"),
        ("well-known", "Well known!"),
        ("3 + 4 = ?", "3+4=?"),
        ("3 − 4", "3 - 4"),
        ("$3.50, please.", "3.50 please"),
        ("a_b", "a b"),
    ],
)
def test_same_problem_in_other_writing_is_the_same(one, other):
    assert normalize_text(one) == normalize_text(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3 + 4", "3 - 4"), ("3.5", "35"), ("3.5", "3 5"), ("-2", "2"), ("x < 3", "x > 3")],
)
def test_other_numbers_or_signs_are_another_problem(one, other):
    assert normalize_text(one) != normalize_text(other)


def test_training_row_with_an_evaluation_prompt_is_found():
    training = [problem("One?", 1), problem("TWO!", 2), problem("three", 3)]
    lines, report = found(training, [problem("two", 9, "test.jsonl")])

    assert lines == [2]
    assert (report.evaluation_problems, report.training_rows, report.matched_rows) == (1, 3, 1)
    assert report.matches == {"prompt text": 1}
    assert report.examples == [
        {"training": "train.jsonl:2", "evaluation": "test.jsonl:9", "matched": "prompt text"}
    ]


def test_key_finds_what_the_text_does_not():
    training = [problem("one", 1, id="x7"), problem("other", 2, id="x8")]
    evaluation = [problem("different", 9, "test.jsonl", id="x7")]

    assert found(training, evaluation)[0] == []
    assert found(training, evaluation, ["id"])[0] == [1]


def test_value_of_one_key_does_not_match_another_key():
    training = [problem("one", 1, topic="x7")]

    assert found(training, [problem("two", 9, id="x7")], ["id", "topic"])[0] == []


def test_prompts_of_punctuation_alone_are_not_the_same_problem():
    assert found([problem("???", 1)], [problem("!!!", 9)])[0] == []


def test_every_matched_row_is_found_but_ten_examples_are_kept():
    lines, report = found([problem("same", i) for i in range(25)], [problem("same", 9)])

    assert len(lines) == report.matched_rows == 25
    assert len(report.examples) == 10


def test_a_problem_inside_of_a_document_is_found():
    document = "Some words before. Question: Tom has 3 apples, how many? And words behind."
    texts = [Record(Text(document), Origin("book.txt", 1)), Record(Text("Tom."), Origin("b", 2))]
    lines, report = found(texts, [problem("Tom has 3 apples, how many?", file="test.jsonl")])
    assert lines == [1]
    assert report.matches == {"prompt text": 1}


def test_other_words_are_no_problem_inside_of_a_document():
    texts = [Record(Text("Tom has 4 apples, how many? " * 3), Origin("book.txt", 1))]
    assert found(texts, [problem("Tom has 3 apples, how many?", file="test.jsonl")])[0] == []
