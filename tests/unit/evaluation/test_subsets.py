import pytest

from posttrain.data.records import Origin
from posttrain.evaluation.perplexity import Document
from posttrain.evaluation.problems import Problem
from posttrain.evaluation.subsets import choose_subset, digest_problem, digest_subset


def build(count, line=1):
    return [
        Problem(
            Origin("test.jsonl", line + number),
            ({"role": "user", "content": f"What is {number} + 1?"},),
            str(number + 1),
        )
        for number in range(count)
    ]


def asked(problems):
    return [problem.messages[0]["content"] for problem in problems]


def test_the_choice_is_of_contents_and_not_of_places():
    chosen = choose_subset(build(50), 10, seed=0)
    assert len(chosen) == 10
    moved = choose_subset(build(50, line=100)[::-1], 10, seed=0)
    assert set(asked(moved)) == set(asked(chosen))
    assert digest_subset(sorted(moved, key=lambda p: -p.origin.line)[::-1]) == digest_subset(chosen)


def test_the_choice_keeps_the_order_of_the_file():
    lines = [problem.origin.line for problem in choose_subset(build(50), 10, seed=3)]
    assert lines == sorted(lines)


def test_another_seed_chooses_others():
    assert asked(choose_subset(build(50), 10, seed=0)) != asked(
        choose_subset(build(50), 10, seed=1)
    )


def test_a_problem_more_changes_one_at_most():
    before = set(asked(choose_subset(build(50), 10, seed=0)))
    after = set(asked(choose_subset(build(51), 10, seed=0)))
    assert len(before & after) >= 9


@pytest.mark.parametrize("most", [None, 5, 9])
def test_all_are_taken_where_there_are_no_more(most):
    assert choose_subset(build(5), most, seed=0) == build(5)


def test_a_problem_is_another_one_when_its_answer_is():
    first = build(1)[0]
    other = Problem(first.origin, first.messages, "7")
    assert digest_problem(first) != digest_problem(other)
    origin = Origin("a.txt", 1)
    assert digest_problem(Document(origin, "one")) != digest_problem(Document(origin, "two"))
