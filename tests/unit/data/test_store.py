from dataclasses import fields, replace

import numpy as np
import pytest

from posttrain.data.encode import Example
from posttrain.data.records import Chat, Origin, Record
from posttrain.data.store import gather_blocks, load_store, read_blocks, save_store
from posttrain.files import write_json


def example(token_ids, trained, file, line):
    return Example(
        Record(Chat(()), Origin(file, line)),
        np.array(token_ids, dtype=np.int32),
        np.array(trained, dtype=np.float32),
        retokenized=False,
    )


EXAMPLES = [
    example([1, 2, 3], [0, 1, 1], "b.json", 7),
    example([4, 5], [0, 1], "a.json", 2),
    example([151_900], [0], "b.json", 8),
]

FILES = {"a.json": 0, "b.json": 1}


@pytest.fixture
def store(tmp_path):
    save_store(tmp_path / "train", gather_blocks(EXAMPLES, FILES), list(FILES))
    return load_store(tmp_path / "train")


def test_examples_come_back_as_they_were(store):
    assert len(store) == 3
    for i, made in enumerate(EXAMPLES):
        token_ids, weights = store.example(i)
        assert token_ids.tolist() == made.token_ids.tolist()
        assert weights.tolist() == made.weights.tolist()
        assert store.origin(i) == made.record.origin


def test_counts_are_those_of_the_examples(store):
    assert store.lengths.tolist() == [3, 2, 1]
    assert store.trained_tokens == 3


def test_store_is_mapped_and_cannot_be_written(store):
    with pytest.raises(ValueError, match="read-only"):
        store.token_ids[0] = 9


def test_batch_scores_the_trained_tokens_alone(store):
    batch = store.batch([1, 0])

    assert batch["input_ids"].tolist() == [[4, 5, 1, 2, 3]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert batch["score_positions"].tolist() == [0, 2, 3]
    assert batch["score_targets"].tolist() == [5, 2, 3]


def test_empty_split_can_be_saved_and_loaded(tmp_path):
    save_store(tmp_path / "validation", [], [])
    store = load_store(tmp_path / "validation")

    assert len(store) == store.trained_tokens == 0
    assert store.lengths.tolist() == []


def test_blocks_come_back_as_they_were_written(tmp_path):
    trees = [
        replace(e, lengths=(1, 2), parents=(-1, 0), note={"n": i}) for i, e in enumerate(EXAMPLES)
    ]
    mixed = [trees[0], EXAMPLES[1], trees[2]]
    (made,) = gather_blocks(mixed, FILES)
    save_store(tmp_path / "rows", [made, made], list(FILES))
    one, two, three = read_blocks(tmp_path / "rows", block_examples=2)

    assert [len(block) for block in (one, two, three)] == [2, 2, 2]
    for field in fields(made):
        parts = [getattr(block, field.name) for block in (one, two, three)]
        whole = sum(parts, ()) if field.name == "notes" else np.concatenate(parts)
        assert list(map(str, whole)) == 2 * list(map(str, getattr(made, field.name)))


@pytest.mark.parametrize("wanted", [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
def test_selected_examples_keep_all_that_is_theirs(tmp_path, wanted):
    trees = [replace(e, lengths=(1, len(e.token_ids) - 1), parents=(-1, 0)) for e in EXAMPLES[:2]]
    (block,) = gather_blocks([*trees, EXAMPLES[2]], FILES)
    save_store(tmp_path / "kept", [block.select(np.array(wanted, dtype=bool))], list(FILES))
    kept = [e for e, keep in zip([*trees, EXAMPLES[2]], wanted, strict=True) if keep]
    store = load_store(tmp_path / "kept")

    assert [store.example(i)[0].tolist() for i in range(len(store))] == [
        e.token_ids.tolist() for e in kept
    ]
    assert [store.origin(i) for i in range(len(store))] == [e.record.origin for e in kept]
    assert [len(store.tree(i)) for i in range(len(store))] == [max(1, len(e.lengths)) for e in kept]


def test_a_mixture_says_which_examples_an_epoch_has(tmp_path):
    save_store(tmp_path / "train", gather_blocks(EXAMPLES, FILES), list(FILES))
    assert load_store(tmp_path / "train").epoch(3).tolist() == [0, 1, 2]
    mixture = {"sizes": [1, 2], "draws": [3, 1], "seed": 0}
    write_json(tmp_path / "train" / "mixture.json", mixture)
    store = load_store(tmp_path / "train")
    assert sorted(store.epoch(0).tolist())[:3] == [0, 0, 0]
    assert {int(store.epoch(n)[store.epoch(n) > 0][0]) for n in (0, 1)} == {1, 2}
