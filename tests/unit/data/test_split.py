from collections import Counter

import numpy as np
import pytest

from posttrain.data.split import SPLITS, assign_splits, choose_split, split_digest

FROZEN = ["validation", "train", "validation", "test", "test", "train"]
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


def digests(rows):
    return np.frombuffer(b"".join(map(split_digest, rows)), np.uint8).reshape(-1, 16)


def assign(rows=ROWS, **changes):
    settings = {"validation": 0.1, "test": 0.2, "seed": 0, **changes}
    return assign_splits(digests(rows), **settings)


def counts(assigned):
    return np.bincount(assigned, minlength=3).tolist()


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_all_rows_at_once_are_assigned_as_one_by_one(seed):
    assert [SPLITS[number] for number in assign(seed=seed)] == splits(seed=seed)


def test_a_group_stays_together_and_is_placed_by_its_name():
    groups = [f"passage {i // 7}" for i in range(len(ROWS))]
    assigned = assign(groups=groups)

    assert all(len(set(assigned[i : i + 7])) == 1 for i in range(0, len(ROWS) - 7, 7))
    assert [SPLITS[number] for number in assigned[::7]] == splits(groups[::7])
    shuffled = np.random.default_rng(0).permutation(len(ROWS))
    again = assign([ROWS[i] for i in shuffled], groups=[groups[i] for i in shuffled])
    assert again.tolist() == assigned[shuffled].tolist()


def test_a_row_of_no_group_is_placed_by_its_own_digest():
    groups = [row.tobytes() for row in digests(ROWS)]

    assert assign(groups=groups).tolist() == assign().tolist()


def test_every_stratum_has_the_wanted_shares():
    strata = [f"level {len(row) % 2 or i % 5}" for i, row in enumerate(ROWS)]
    assigned = assign(strata=strata, validation=0.1, test=0.1)

    for name, size in Counter(strata).items():
        train, validation, test = counts(assigned[np.array(strata) == name])
        assert abs(validation - 0.1 * size) < 1
        assert abs(test - 0.1 * size) < 1
        assert abs(train - 0.8 * size) < 1


@pytest.mark.parametrize("size", [10, 20, 1000])
def test_shares_that_come_out_even_are_exact(size):
    for seed in range(20):
        assigned = assign(ROWS[:size], strata=["x"] * size, validation=0.1, test=0.1, seed=seed)
        assert counts(assigned) == [0.8 * size, 0.1 * size, 0.1 * size]


def test_many_small_strata_add_up_to_the_shares():
    assigned = assign(strata=[f"topic {i // 4}" for i in range(len(ROWS))])

    assert np.array(counts(assigned)) / len(ROWS) == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def test_equal_content_never_straddles_in_a_stratum():
    rows = ROWS[:50] * 9

    assigned = assign(rows, strata=["x"] * len(rows)).reshape(9, 50)
    assert (assigned == assigned[0]).all()


def test_groups_and_strata_keep_both():
    groups = [f"passage {i // 5}" for i in range(len(ROWS))]
    strata = [f"level {i // 5 % 3}" for i in range(len(ROWS))]
    assigned = assign(groups=groups, strata=strata)

    assert (assigned.reshape(-1, 5) == assigned[::5, None]).all()
    for name in set(strata):
        inside = assigned[np.array(strata) == name]
        # A group of five at each cut may fall on either side.
        assert np.abs(np.array(counts(inside)) - len(inside) * np.array([0.7, 0.1, 0.2])).max() < 6


def test_a_group_belongs_to_the_stratum_of_most_of_its_rows():
    rows, groups = ROWS[:300], ["g"] * 3 + [f"h{i}" for i in range(297)]
    mixed = assign(rows, groups=groups, strata=["b", "a", "b"] + ["a"] * 100 + ["b"] * 197)
    whole = assign(rows, groups=groups, strata=["b", "b", "b"] + ["a"] * 100 + ["b"] * 197)
    turned = assign(rows, groups=groups, strata=["a", "b", "b"] + ["a"] * 100 + ["b"] * 197)

    assert mixed.tolist() == whole.tolist() == turned.tolist()


@pytest.mark.parametrize("more", [{}, {"groups": []}, {"strata": []}, {"groups": [], "strata": []}])
def test_no_rows_are_no_rows(more):
    assert (
        assign_splits(
            np.empty((0, 16), np.uint8), validation=0.1, test=0.1, seed=0, **more
        ).tolist()
        == []
    )
