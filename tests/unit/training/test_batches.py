import numpy as np
import pytest

from posttrain.config.train import SftStage
from posttrain.data.store import ExampleStore
from posttrain.errors import ConfigError
from posttrain.training.batches import PlannedBatches, build_schedule, take_only

LENGTHS = [5, 9, 3, 7, 7, 4, 8, 6, 2, 9, 5, 3]


@pytest.fixture
def store():
    ids = np.arange(sum(LENGTHS), dtype=np.int32)
    offsets = np.cumsum([0, *LENGTHS])
    trained = np.ones(len(ids), dtype=bool)
    trained[offsets[:-1]] = False
    places = np.array([(0, line + 1) for line in range(len(LENGTHS))])
    return ExampleStore(ids, trained, offsets, places, ("rows.jsonl",))


def make_stage(**changes):
    settings = {
        "stage": "sft",
        "data": {"sources": [{"path": "rows.jsonl"}]},
        "batch_tokens": 12,
        "accumulate": 2,
        **changes,
    }
    return SftStage.model_validate(settings)


def test_one_epoch_takes_every_example_once_and_adds_up(store):
    schedule = build_schedule(store, make_stage(), seed=0)
    taken = sorted(int(i) for batch in schedule.batches for i in batch)
    assert taken == list(range(len(LENGTHS)))
    assert schedule.batch_size_tokens.sum() == sum(LENGTHS)
    assert schedule.batch_trained_tokens.sum() == sum(LENGTHS) - len(LENGTHS)
    assert schedule.batch_size_tokens.max() <= 12
    assert schedule.done(schedule.steps) == (
        schedule.steps,
        sum(LENGTHS),
        sum(LENGTHS) - len(LENGTHS),
        1.0,
        len(LENGTHS),
    )
    assert schedule.done(0) == (0, 0, 0, 0.0, 0)


def test_a_last_step_may_have_fewer_batches(store):
    schedule = build_schedule(store, make_stage(accumulate=4), seed=0)
    assert len(schedule.batches) % 4
    assert schedule.steps == len(schedule.batches) // 4 + 1
    assert (
        schedule.done(schedule.steps - 1).tokens
        == schedule.batch_size_tokens[: 4 * (schedule.steps - 1)].sum()
    )


@pytest.mark.parametrize(("steps", "processes"), [(1, 1), (7, 1), (3, 4)])
def test_steps_fix_the_number_of_batches_over_as_many_passes_as_it_takes(store, steps, processes):
    schedule = build_schedule(store, make_stage(steps=steps), seed=0, processes=processes)
    assert len(schedule.batches) == steps * 2 * processes
    assert schedule.steps == steps


def test_the_schedule_depends_on_the_seed_alone(store):
    first, again, other = (build_schedule(store, make_stage(), seed=s).batches for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert [b.tolist() for b in first] != [b.tolist() for b in other]


def test_an_example_longer_than_a_batch_is_refused_with_its_origin(store):
    with pytest.raises(ConfigError, match=r"rows.jsonl:2: this example has 9 tokens.*is 8"):
        build_schedule(store, make_stage(batch_tokens=8), seed=0)


def test_an_item_is_a_packed_batch_that_knows_its_rows(store):
    batches = PlannedBatches(store, [np.array([2, 0]), np.array([8])])
    item = take_only([batches[0]])
    assert item["input_ids"].shape == (1, 8)
    assert item["number"] == 0
    assert batches.origins(item["number"]) == ["rows.jsonl:3", "rows.jsonl:1"]
    assert len(batches) == 2
