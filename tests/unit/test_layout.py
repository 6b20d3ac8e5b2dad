from dataclasses import replace

import numpy as np
import pytest

from posttrain.layout import Segment, SegmentTable, build_batch, take_trees


def segment(token_ids, weights, parent=-1):
    return Segment(np.array(token_ids), np.array(weights, dtype=float), parent)


def test_roots_lie_end_to_end_each_from_position_zero():
    batch = build_batch([segment([7, 8, 9], [0, 0, 1]), segment([5, 6], [0, 0.5])])

    assert batch["input_ids"].tolist() == [[7, 8, 9, 5, 6]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["segments"] == SegmentTable((0, 3), (3, 2), (-1, -1))
    assert batch["score_positions"].tolist() == [1, 3]
    assert batch["score_targets"].tolist() == [9, 6]
    assert batch["score_weights"].tolist() == [1, 0.5]


def test_prompts_last_token_predicts_the_first_of_each_child():
    batch = build_batch(
        [
            segment([1, 2], [0, 0]),
            segment([3, 4], [1, 1], parent=0),
            segment([5], [1], parent=0),
            segment([6], [1], parent=1),
        ]
    )

    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 4]]
    assert batch["score_positions"].tolist() == [1, 2, 1, 3]
    assert batch["score_targets"].tolist() == [3, 4, 5, 6]
    assert batch["segments"].ancestors(3) == [0, 1]
    assert batch["segments"].total_tokens == 6


def test_types_are_those_that_torch_indexes_with():
    batch = build_batch([segment(np.array([1, 2], dtype=np.int32), [0, True])])

    assert {batch[k].dtype for k in ("input_ids", "position_ids", "score_targets")} == {
        np.dtype(np.int64)
    }
    assert batch["score_weights"].dtype == np.float32


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([segment([], [])], "is empty"),
        ([segment([1], [0], parent=0)], "its parent does not come before it"),
        ([segment([1], [0]), segment([1], [0], parent=-2)], "its parent does not come before it"),
        ([segment([1, 2], [1, 0])], "loss on its first token"),
        ([segment([1, 2], [0])], "not one weight per token"),
    ],
)
def test_segment_that_cannot_be_laid_out_is_refused(segments, message):
    with pytest.raises(ValueError, match=message):
        build_batch(segments)


def forest():
    """Two trees, whose segments do not lie side by side, with fields along every axis."""
    batch = build_batch(
        [
            segment([1, 2], [0, 0]),
            segment([3, 4, 5], [0, 0, 0]),
            segment([6], [1], parent=0),
            segment([7, 8], [1, 1], parent=1),
            segment([9], [1], parent=2),
            segment([10], [1], parent=1),
        ]
    )
    batch["values_N"] = np.arange(5.0)
    batch["end_positions"] = np.array([5, 7, 8, 9])
    batch["order"] = [20, 21, 22, 23]
    batch["reference_logprobs"] = np.array([[0.1, 0.2], [1.1, 1.2]])
    return {**batch, "number": 3}


def test_trees_are_counted_by_their_roots():
    table = forest()["segments"]
    assert table.trees() == [0, 1, 0, 1, 0, 1]
    assert table.tree_tokens() == [4, 6]


def test_some_trees_of_a_batch_are_a_batch_of_their_own():
    part = take_trees(forest(), [1])
    alone = build_batch(
        [segment([3, 4, 5], [0, 0, 0]), segment([7, 8], [1, 1], 0), segment([10], [1], 0)]
    )
    assert part["segments"] == alone["segments"]
    for name in alone.keys() - {"segments"}:
        assert part[name].tolist() == alone[name].tolist(), name
        assert part[name].dtype == alone[name].dtype
    assert part["values_N"].tolist() == [1, 2, 4]
    assert part["end_positions"].tolist() == [4, 5]
    assert part["order"] == [21, 23]
    assert part["reference_logprobs"].tolist() == [[1.1, 1.2]]
    assert (part["number"], part["trees"]) == (3, (1,))


def test_all_trees_of_a_batch_are_the_batch():
    whole, same = forest(), take_trees(forest(), [0, 1])
    assert same["segments"] == whole["segments"]
    for name in whole.keys() - {"segments", "number", "order"}:
        assert same[name].tolist() == whole[name].tolist(), name


def test_a_part_of_an_encoders_batch_is_seen_both_ways_too():
    batch = forest()
    batch["segments"] = replace(batch["segments"], causal=False)
    assert take_trees(batch, [0])["segments"].causal is False


def test_a_field_of_unknown_axis_cannot_be_cut():
    with pytest.raises(ValueError, match="along which axis is `extra` of a batch to be cut"):
        take_trees({**forest(), "extra": np.zeros(3)}, [0])
