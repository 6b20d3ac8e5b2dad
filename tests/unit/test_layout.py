import numpy as np
import pytest

from posttrain.layout import Segment, SegmentTable, build_batch


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
