"""Layout and schedule, for any lengths and any trees of segments."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.encode import Example
from posttrain.data.pack import plan_batches
from posttrain.data.records import Chat, Origin, Record
from posttrain.data.store import gather_blocks, load_store, save_store
from posttrain.layout import NO_PARENT, Segment, build_batch

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
BOUNDED = settings(max_examples=60, deadline=None)


@BOUNDED
@given(LENGTHS, st.integers(40, 90), st.integers(0, 5), st.floats(0.05, 3))
def test_plan_uses_every_example_once_a_pass(lengths, batch_tokens, seed, epochs):
    plan = plan_batches(lengths, batch_tokens=batch_tokens, seed=seed, epochs=epochs)
    uses = Counter(int(i) for batch in plan for i in batch)

    assert all(0 < sum(lengths[i] for i in batch) <= batch_tokens for batch in plan)
    whole = int(epochs)
    assert all(whole <= uses[i] <= whole + 1 for i in range(len(lengths)))
    expected = round(len(lengths) * epochs)
    assert abs(sum(uses.values()) - max(1, expected)) <= 1


@BOUNDED
@given(LENGTHS, st.integers(40, 90), st.integers(1, 100))
def test_plan_of_a_number_of_batches_is_the_start_of_a_longer_one(lengths, batch_tokens, batches):
    def plan(number):
        made = plan_batches(lengths, batch_tokens=batch_tokens, seed=0, batches=number)
        return [batch.tolist() for batch in made]

    assert len(plan(batches)) == batches
    assert plan(batches) == plan(batches + 7)[:batches]


@st.composite
def trees(draw):
    segments = []
    for i in range(draw(st.integers(1, 8))):
        length = draw(st.integers(1, 6))
        parent = draw(st.integers(NO_PARENT, i - 1))
        weights = draw(st.lists(st.sampled_from([0, 0.5, 1]), min_size=length, max_size=length))
        if parent == NO_PARENT:
            weights[0] = 0
        token_ids = draw(st.lists(st.integers(0, 99), min_size=length, max_size=length))
        segments.append(Segment(np.array(token_ids), np.array(weights, dtype=float), parent))
    return segments


def lineage(segments, number):
    """A segment's own tokens after those of its ancestors, each as (place in the batch, id)."""
    starts = np.cumsum([0, *(len(s.token_ids) for s in segments)])
    own = [(int(starts[number]) + j, int(t)) for j, t in enumerate(segments[number].token_ids)]
    parent = segments[number].parent
    return own if parent == NO_PARENT else lineage(segments, parent) + own


@BOUNDED
@given(trees())
def test_batch_scores_what_a_flat_sequence_would(segments):
    batch = build_batch(segments)
    positions, triples = [], []
    for number, segment in enumerate(segments):
        line = lineage(segments, number)
        before = len(line) - len(segment.token_ids)
        for j, weight in enumerate(segment.weights):
            positions.append(before + j)
            if weight:
                triples.append((line[before + j - 1][0], line[before + j][1], weight))

    assert batch["position_ids"].tolist() == [positions]
    scored = (batch["score_positions"], batch["score_targets"], batch["score_weights"])
    assert list(zip(*(array.tolist() for array in scored), strict=True)) == triples
    assert batch["segments"].parents == tuple(s.parent for s in segments)


def example_of(row, number):
    token_ids, trained = zip(*row, strict=True)
    return Example(
        Record(Chat(()), Origin(f"{number % 3}.json", number)),
        np.array(token_ids, dtype=np.int32),
        (np.array(trained) & (np.arange(len(trained)) > 0)).astype(np.float32),
        retokenized=False,
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1, max_size=12),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, 3),
)
def test_examples_survive_store_plan_and_batch(tmp_path_factory, rows, seed):
    examples = [example_of(row, number) for number, row in enumerate(rows)]
    folder = tmp_path_factory.mktemp("store") / "train"
    files = {f"{n}.json": n for n in range(3)}
    save_store(folder, gather_blocks(examples, files), list(files))
    store = load_store(folder)
    found = {}
    for indices in plan_batches(store.lengths, batch_tokens=24, seed=seed, epochs=1):
        batch = store.batch(indices)
        table = batch["segments"]
        scores = dict(zip(batch["score_positions"], batch["score_targets"], strict=True))
        for index, start, length in zip(indices, table.starts, table.lengths, strict=True):
            ids = batch["input_ids"][0, start : start + length].tolist()
            trained = [scores.get(start + j - 1) == t and j > 0 for j, t in enumerate(ids)]
            found[int(index)] = (ids, trained, store.origin(int(index)))

    assert len(found) == len(examples)
    for number, made in enumerate(examples):
        ids, trained, origin = found[number]
        assert ids == made.token_ids.tolist()
        assert trained == made.trained.tolist()
        assert origin == made.record.origin
