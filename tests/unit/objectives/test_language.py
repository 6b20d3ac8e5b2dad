import pytest
import torch

from posttrain.objectives.language import weighted_nll


def test_the_loss_is_the_weighted_mean_by_hand():
    loss = weighted_nll(
        torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([1.0, 0.5, 0.0]), total_weight=1.5
    )
    assert float(loss) == pytest.approx((1.0 + 1.0) / 1.5)


def test_parts_of_a_step_add_up_to_the_whole():
    logprobs, weights = -torch.rand(10), torch.rand(10)
    total = weights.sum()
    whole = weighted_nll(logprobs, weights, total_weight=total)
    parts = [
        weighted_nll(logprobs[part], weights[part], total_weight=total)
        for part in (slice(0, 3), slice(3, 4), slice(4, 10))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        weighted_nll(torch.zeros(3), torch.zeros(1), total_weight=1.0)
