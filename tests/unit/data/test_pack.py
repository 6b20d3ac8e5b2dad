import time
from collections import Counter

import numpy as np
import pytest

from posttrain.data.pack import plan_batches


def lengths_like_alpaca(count, seed=0):
    sampled = np.random.default_rng(seed).lognormal(mean=4.9, sigma=0.7, size=count)
    return np.clip(sampled.astype(int), 10, 2048)


def uses(plan):
    return Counter(int(i) for batch in plan for i in batch)


def test_every_example_comes_once_a_pass():
    plan = plan_batches(lengths_like_alpaca(500), batch_tokens=2048, seed=1, epochs=3)

    assert uses(plan) == dict.fromkeys(range(500), 3)


def test_passes_follow_one_another():
    sizes = lengths_like_alpaca(300)
    one = plan_batches(sizes, batch_tokens=2048, seed=1, epochs=1)
    two = plan_batches(sizes, batch_tokens=2048, seed=1, epochs=2)

    assert all((a == b).all() for a, b in zip(one, two, strict=False))
    assert uses(two[len(one) :]) == dict.fromkeys(range(300), 1)
    assert [b.tolist() for b in two[len(one) :]] != [b.tolist() for b in one]


def test_no_batch_is_over_the_limit_or_empty():
    sizes = lengths_like_alpaca(2000)
    plan = plan_batches(sizes, batch_tokens=2100, seed=0, epochs=1)

    assert all(0 < sizes[batch].sum() <= 2100 for batch in plan)


def test_same_seed_gives_the_same_plan_and_another_seed_another():
    def plan(seed):
        made = plan_batches(lengths_like_alpaca(400), batch_tokens=2048, seed=seed, epochs=1.5)
        return [batch.tolist() for batch in made]

    assert plan(3) == plan(3)
    assert plan(3) != plan(4)


@pytest.mark.parametrize(("epochs", "examples"), [(0.25, 100), (1.5, 600), (0.001, 1)])
def test_fraction_of_an_epoch_is_a_part_of_a_pass(epochs, examples):
    plan = plan_batches([5] * 400, batch_tokens=50, seed=0, epochs=epochs)

    assert sum(uses(plan).values()) == examples
    assert max(uses(plan).values()) <= np.ceil(epochs)


def test_rounding_error_makes_no_further_pass():
    plan = plan_batches([5] * 40, batch_tokens=50, seed=0, epochs=3.0000000000000004)

    assert uses(plan) == dict.fromkeys(range(40), 3)


def test_number_of_batches_is_exact_over_many_passes():
    sizes = lengths_like_alpaca(50)
    per_pass = len(plan_batches(sizes, batch_tokens=2048, seed=0, epochs=1))
    plan = plan_batches(sizes, batch_tokens=2048, seed=0, batches=3 * per_pass + 1)

    assert len(plan) == 3 * per_pass + 1
    assert min(uses(plan).values()) == 3


def test_batches_and_epochs_give_the_same_order():
    sizes = lengths_like_alpaca(300)
    by_epochs = plan_batches(sizes, batch_tokens=2048, seed=2, epochs=2)
    by_batches = plan_batches(sizes, batch_tokens=2048, seed=2, batches=len(by_epochs))

    assert [b.tolist() for b in by_batches] == [b.tolist() for b in by_epochs]


@pytest.mark.parametrize(("batch_tokens", "least"), [(2048, 0.995), (8192, 0.99)])
def test_batches_of_realistic_lengths_are_full(batch_tokens, least):
    sizes = lengths_like_alpaca(10_000)
    plan = plan_batches(sizes, batch_tokens=batch_tokens, seed=0, epochs=1)

    assert sizes.sum() / (len(plan) * batch_tokens) >= least


def test_long_and_short_examples_are_not_sorted_over_the_run():
    sizes = lengths_like_alpaca(10_000)
    plan = plan_batches(sizes, batch_tokens=2048, seed=0, epochs=1)
    means = np.array([sizes[batch].mean() for batch in plan])
    half = len(means) // 2

    assert means[:half].mean() == pytest.approx(means[half:].mean(), rel=0.15)


def test_planning_a_hundred_thousand_examples_takes_seconds():
    started = time.perf_counter()
    plan_batches(lengths_like_alpaca(100_000), batch_tokens=8192, seed=0, epochs=1)

    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "settings",
    [
        {"lengths": [], "epochs": 1},
        {"lengths": [11], "epochs": 1},
        {"lengths": [5]},
        {"lengths": [5], "epochs": 1, "batches": 1},
    ],
)
def test_impossible_plan_is_refused(settings):
    with pytest.raises(ValueError, match="need examples that fit a batch"):
        plan_batches(batch_tokens=10, seed=0, **settings)
