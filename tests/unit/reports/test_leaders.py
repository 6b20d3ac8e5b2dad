import random

from posttrain.evaluation.comparisons import group_samples
from posttrain.reports.leaders import find_leader


def side(marks):
    return group_samples({"id": str(n), "correct": bool(mark)} for n, mark in enumerate(marks))


def test_the_best_is_named_where_it_beats_every_other():
    sides = [side(n % 3 == 0 for n in range(90)), side(n % 9 > 0 for n in range(90))]
    assert find_leader(sides, below=0.05) == 1
    assert find_leader(sides[::-1], below=0.05) == 0


def test_two_that_cannot_be_told_apart_have_no_best():
    strong = [side(n % 9 > 0 for n in range(90)), side(n % 9 != 1 for n in range(90))]
    assert find_leader([*strong, side(n % 3 == 0 for n in range(90))], below=0.05) is None


def test_texts_that_are_foretold_better_have_fewer_bits():
    sides = [
        group_samples({"id": str(n), "nats": 40 + n + more, "bytes": 100} for n in range(9))
        for more in (0.0, 3.0)
    ]
    assert find_leader(sides, below=0.05) == 0


def test_equal_models_are_seldom_called_best():
    """Eight equal models: the highest score wins by chance, and its mark must not."""
    rng = random.Random(5)
    named = 0
    for _ in range(60):
        sides = [side(rng.random() < 0.5 for _ in range(60)) for _ in range(8)]
        named += find_leader(sides, below=0.05) is not None
    assert named <= 3
