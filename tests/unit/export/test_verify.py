import math

import pytest
import torch

from posttrain.export.verify import PROMPTS, ScoredText, compare_logits, encode_prompts

TEXT = ScoredText([0, 1, 0], [True, True, False])
BEFORE = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [1.0, 0.0]])


def test_a_model_agrees_with_itself_and_a_shift_of_all_logits_is_no_difference():
    found = compare_logits([TEXT], [BEFORE], [BEFORE + 2])
    assert (found.tokens, found.top1_agreement) == (3, 1.0)
    assert found.max_difference == pytest.approx(2)
    assert found.relative_difference == pytest.approx(0, abs=1e-6)
    assert found.kl == pytest.approx(0, abs=1e-7)
    assert found.loss_increase == pytest.approx(0, abs=1e-6)


def test_differences_by_hand():
    after = BEFORE.clone()
    after[0] = torch.tensor([math.log(3), 0.0])  # 1/4, 3/4 becomes 3/4, 1/4
    found = compare_logits([TEXT], [BEFORE], [after])
    assert found.top1_agreement == pytest.approx(2 / 3)
    assert found.kl == pytest.approx((0.75 - 0.25) * math.log(3) / 3)
    # Only the second token counts: its probability falls from 3/4 to 1/4.
    assert found.loss_before == pytest.approx(-math.log(0.75))
    assert found.loss_increase == pytest.approx(math.log(3))
    # Centered: log 3 of difference, twice half of it; the reference has log 3, 0 and 1.
    expected = (2 * math.log(3) ** 2 / (math.log(3) ** 2 / 2 + 1 / 2)) ** 0.5
    assert found.relative_difference == pytest.approx(expected)


def test_logits_that_are_not_finite_are_an_infinite_difference():
    after = BEFORE.clone()
    after[1, 0] = math.nan
    found = compare_logits([TEXT], [BEFORE], [after])
    assert math.isinf(found.relative_difference)
    assert not found.loss_increase <= 1e9 or found.max_difference == math.inf


def test_prompts_end_where_the_answer_begins(tiny_tokenizer):
    for ids in encode_prompts(tiny_tokenizer, PROMPTS):
        assert tiny_tokenizer.decode(ids).endswith("<|im_start|>assistant\n")
