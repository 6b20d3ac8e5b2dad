import torch

from posttrain.layout import SegmentTable
from posttrain.models.padded import RowPlan, join, lay_out, plan_rows

# Root of 3 with children of 2 and 4, the second with a child of 1; a loner of 5.
TABLE = SegmentTable((0, 3, 5, 9, 10), (3, 2, 4, 1, 5), (-1, 0, 0, 2, -1))


def rows_of(plan: RowPlan) -> list[list[int]]:
    """Each row's tokens without its filling."""
    found = []
    for call in plan.calls:
        for number, row in enumerate(call.tokens_RL.tolist()):
            real = len(row) if call.mask_RL is None else int(call.mask_RL[number].sum())
            found.append(row[:real])
    return found


def test_every_path_to_a_leaf_is_a_row():
    rows = rows_of(plan_rows(TABLE))
    assert sorted(rows) == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
    ]


def test_every_token_has_a_place_that_holds_it():
    plan = plan_rows(TABLE)
    for token, (call, row, column) in enumerate(plan.place_T3.tolist()):
        assert plan.calls[call].tokens_RL[row, column] == token


def test_rows_of_very_different_lengths_do_not_share_a_call():
    lengths = (2000, *[20] * 100)
    starts = tuple(sum(lengths[:i]) for i in range(len(lengths)))
    plan = plan_rows(SegmentTable(starts, lengths, (-1,) * len(lengths)))
    laid = sum(call.tokens_RL.numel() for call in plan.calls)
    assert laid <= 1.25 * sum(lengths)
    assert len(plan.calls) == 2


def test_no_call_is_larger_than_the_batch():
    # A prompt of 900 with 50 answers of 10: 45,500 tokens in rows, of a batch of 1,400.
    lengths = (900, *[10] * 50)
    starts = (0, *(900 + 10 * i for i in range(50)))
    plan = plan_rows(SegmentTable(starts, lengths, (-1, *[0] * 50)))
    assert max(call.tokens_RL.numel() for call in plan.calls) <= 1400
    assert sum(len(call.tokens_RL) for call in plan.calls) == 50


def test_what_calls_give_comes_back_in_the_order_asked():
    def forward(input_ids, attention_mask=None):
        """Never called; asked what it accepts."""

    positions_N = torch.tensor([14, 0, 9, 4, 4])
    ids_1T = torch.arange(100, 115)[None]
    calls = lay_out(forward, ids_1T, TABLE, positions_N)
    assert all("use_cache" not in call.inputs for call in calls)
    found = join(calls, [call.inputs["input_ids"][call.places] for call in calls])
    assert found.tolist() == [114, 100, 109, 104, 104]
