import numpy as np
import pytest

from posttrain.data.encode import Example
from posttrain.data.records import Chat, Origin, Record
from posttrain.data.store import load_store, save_store


def example(token_ids, trained, file, line):
    return Example(
        Record(Chat(()), Origin(file, line)),
        np.array(token_ids, dtype=np.int32),
        np.array(trained, dtype=bool),
        retokenized=False,
    )


EXAMPLES = [
    example([1, 2, 3], [0, 1, 1], "b.json", 7),
    example([4, 5], [0, 1], "a.json", 2),
    example([151_900], [0], "b.json", 8),
]


@pytest.fixture
def store(tmp_path):
    save_store(tmp_path / "train", EXAMPLES)
    return load_store(tmp_path / "train")


def test_examples_come_back_as_they_were(store):
    assert len(store) == 3
    for i, made in enumerate(EXAMPLES):
        token_ids, trained = store.example(i)
        assert token_ids.tolist() == made.token_ids.tolist()
        assert trained.tolist() == made.trained.tolist()
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
    save_store(tmp_path / "validation", [])
    store = load_store(tmp_path / "validation")

    assert len(store) == store.trained_tokens == 0
    assert store.lengths.tolist() == []
