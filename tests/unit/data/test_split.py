from collections import Counter

import pytest

from posttrain.data.split import choose_split

FROZEN = ["validation", "validation", "train", "test", "test", "validation"]
ROWS = [f"row {i}" for i in range(4000)]


def splits(rows=ROWS, **changes):
    settings = {"validation": 0.1, "test": 0.2, "seed": 0, **changes}
    return [choose_split(row, **settings) for row in rows]


def test_shares_come_out_roughly():
    shares = {name: n / len(ROWS) for name, n in Counter(splits()).items()}

    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.02)


def test_shares_of_zero_leave_all_to_train():
    assert set(splits(validation=0, test=0)) == {"train"}


def test_adding_rows_moves_no_other():
    assert splits(["new", *ROWS, "newer"])[1:-1] == splits()


def test_same_content_never_straddles():
    assert len(set(splits(["same"] * 50))) == 1


def test_another_seed_chooses_other_rows():
    assert splits(seed=1) != splits(seed=0)


def test_larger_validation_share_takes_rows_from_train_alone():
    before, after = splits(validation=0.1), splits(validation=0.3)

    assert all(
        a == b or (b, a) == ("train", "validation") for b, a in zip(before, after, strict=True)
    )


def test_choice_is_the_same_on_every_machine():
    # Frozen: another answer would move rows of everyone's test splits.
    assert splits(["a", "b", "c", "d", "问", "f"], validation=0.3, test=0.3) == FROZEN
