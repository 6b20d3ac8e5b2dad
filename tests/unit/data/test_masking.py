import numpy as np
import pytest

from posttrain.data.masking import Masking, mask_batch
from posttrain.layout import Segment, build_batch

MASK, SPECIAL = 4, {0, 1, 2, 3, 4}
MASKING = Masking(0.15, MASK, SPECIAL, 100)


def make_batch(lengths=(400, 400, 200)):
    """Blocks between a begin (1) and an end token (2)."""
    random = np.random.default_rng(0)
    rows = [np.array([1, *random.integers(5, 100, n - 2), 2]) for n in lengths]
    return build_batch([Segment(row, np.zeros(len(row))) for row in rows])


def test_a_share_of_the_ordinary_tokens_is_scored_at_its_own_place():
    packed = make_batch()
    masked = mask_batch(packed, MASKING, [7])
    places, targets = masked["score_positions"], masked["score_targets"]
    assert len(places) == round(0.15 * 994)
    assert (packed["input_ids"][0, places] == targets).all()
    assert not set(targets.tolist()) & SPECIAL
    assert masked["score_weights"].tolist() == [1.0] * len(places)
    untouched = np.setdiff1d(np.arange(1000), places)
    assert (masked["input_ids"][0, untouched] == packed["input_ids"][0, untouched]).all()
    assert (
        masked["score_segments"].tolist() == np.searchsorted([400, 800], places, "right").tolist()
    )
    assert not masked["segments"].causal
    assert packed["segments"].causal


def test_most_are_hidden_some_replaced_some_left():
    masking = Masking(0.9, MASK, SPECIAL, 100)
    masked = mask_batch(make_batch((5000,)), masking, [1])
    shown = masked["input_ids"][0, masked["score_positions"]]
    hidden = (shown == MASK).mean()
    left = (shown == masked["score_targets"]).mean()
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert left == pytest.approx(0.1, abs=0.02)
    assert not set(shown.tolist()) & (SPECIAL - {MASK})


def test_the_seed_decides():
    first, again, other = (mask_batch(make_batch(), MASKING, s) for s in ([1, 5], [1, 5], [1, 6]))
    assert np.array_equal(first["input_ids"], again["input_ids"])
    assert not np.array_equal(first["score_positions"], other["score_positions"])


def test_at_least_one_token_is_hidden_and_the_source_is_left_alone():
    packed = make_batch((3,))
    before = packed["input_ids"].copy()
    masked = mask_batch(packed, MASKING, [0])
    assert masked["score_positions"].tolist() == [1]
    assert np.array_equal(packed["input_ids"], before)
