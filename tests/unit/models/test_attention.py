import torch

from posttrain.layout import SegmentTable
from posttrain.models.attention.dense import dense_mask


def test_the_dense_mask_is_the_definition_of_the_layout():
    # Root of 2 tokens, its child of 2, the child's child of 1, another root of 1.
    table = SegmentTable((0, 2, 4, 5), (2, 2, 1, 1), (-1, 0, 1, -1))
    expected = [
        "1.....",
        "11....",
        "111...",
        "1111..",
        "11111.",
        ".....1",
    ]
    assert dense_mask(table).tolist() == [[mark == "1" for mark in row] for row in expected]


def test_an_encoder_sees_both_ways_within_a_segment_and_its_window():
    table = SegmentTable((0, 4), (4, 1), (-1, -1), causal=False)
    whole = ["1111.", "1111.", "1111.", "1111.", "....1"]
    local = ["11...", "111..", ".111.", "..11.", "....1"]
    assert dense_mask(table).tolist() == [[mark == "1" for mark in row] for row in whole]
    assert dense_mask(table, 2).tolist() == [[mark == "1" for mark in row] for row in local]


def test_siblings_do_not_see_each_other():
    table = SegmentTable((0, 1, 2), (1, 1, 1), (-1, 0, 0))
    assert torch.equal(dense_mask(table)[2], torch.tensor([True, False, True]))


def test_a_causal_window_counts_positions_along_the_path():
    # Root of 2, a sibling in between, the other child of 2: its tokens are at positions 2 and 3.
    table = SegmentTable((0, 2, 5), (2, 3, 2), (-1, 0, 0))
    expected = [
        "1......",
        "11.....",
        ".11....",
        "..11...",
        "...11..",
        ".1...1.",
        ".....11",
    ]
    assert dense_mask(table, 2).tolist() == [[mark == "1" for mark in row] for row in expected]
