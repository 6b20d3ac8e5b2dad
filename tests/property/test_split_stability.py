"""Splits depend on content alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.records import Chat
from posttrain.data.split import SPLITS, assign_splits, choose_split, split_digest

SHARES = st.tuples(st.floats(0, 0.49), st.floats(0, 0.49), st.integers(0, 9))


def split(text, shares):
    validation, test, seed = shares
    return choose_split(text, validation=validation, test=test, seed=seed)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text()), st.lists(st.text()), SHARES)
def test_rows_stay_where_they_are_when_others_come_and_go(rows, more, shares):
    before = {row: split(row, shares) for row in rows}
    after = {row: split(row, shares) for row in reversed([*more, *rows])}

    assert before.items() <= after.items()


@settings(max_examples=100, deadline=None)
@given(st.text(), SHARES)
def test_larger_test_share_never_gives_a_row_back_to_train(text, shares):
    _, test, seed = shares
    order = ["train", "test"]
    places = [
        order.index(choose_split(text, validation=0, test=share, seed=seed))
        for share in (0, test, 0.5, 1)
    ]

    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, 1)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["role", "content", "name"]), st.text(), min_size=2))
def test_order_of_keys_moves_no_row(message):
    turned = dict(reversed(message.items()))

    assert Chat((message,)).canonical() == Chat((turned,)).canonical()


def assign(rows, shares, **more):
    """Split of each row, by row; rows are different."""
    validation, test, seed = shares
    digests = np.frombuffer(b"".join(map(split_digest, rows)), np.uint8).reshape(-1, 16)
    found = assign_splits(digests, validation=validation, test=test, seed=seed, **more)
    return dict(zip(rows, found.tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(st.sets(st.text(), max_size=30), SHARES)
def test_all_at_once_is_the_same_as_one_by_one(rows, shares):
    assert assign(sorted(rows), shares) == {row: SPLITS.index(split(row, shares)) for row in rows}


NAMES = st.sampled_from(["a", "b", "c"])


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(), NAMES, max_size=40),
    st.dictionaries(st.text(), NAMES, max_size=10),
    SHARES,
)
def test_added_rows_move_at_most_as_many_across_each_cut_of_their_stratum(rows, more, shares):
    more = {row: name for row, name in more.items() if row not in rows}
    everything = {**rows, **more}
    before = assign(list(rows), shares, strata=list(rows.values()))
    after = assign(list(everything), shares, strata=list(everything.values()))

    for name in set(rows.values()):
        added = sum(stratum == name for stratum in more.values())
        inside = [row for row, stratum in rows.items() if stratum == name]
        for cut in (1, 2):  # between train and validation, between validation and test
            moved = sum((before[row] >= cut) != (after[row] >= cut) for row in inside)
            assert moved <= added


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(), NAMES, st.sampled_from("xyz")), max_size=40), SHARES)
def test_neither_groups_nor_equal_rows_straddle_whatever_the_order(rows, shares):
    def by_row(order):
        digests = [np.frombuffer(split_digest(text), np.uint8) for text, _, _ in order]
        validation, test, seed = shares
        found = assign_splits(
            np.array(digests, np.uint8).reshape(-1, 16),
            validation=validation,
            test=test,
            seed=seed,
            groups=[group for _, _, group in order],
            strata=[stratum for _, stratum, _ in order],
        )
        return dict(zip([group for _, _, group in order], found.tolist(), strict=True)), found

    forward, found = by_row(rows)
    assert found.tolist() == [forward[group] for _, _, group in rows]
    assert by_row(rows[::-1])[0] == forward
