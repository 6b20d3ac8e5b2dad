"""Splits depend on content alone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.records import Chat
from posttrain.data.split import choose_split

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
