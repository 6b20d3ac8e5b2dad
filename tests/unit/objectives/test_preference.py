import math

import pytest
import torch

from posttrain.objectives.preference import dpo_loss, hinge_loss, ipo_loss
from posttrain.objectives.reward import bradley_terry_loss

POLICY = torch.tensor([1.0, -2.0, 0.5])
REFERENCE = torch.tensor([0.0, -1.0, 0.5])


def test_dpo_by_hand():
    found = dpo_loss(POLICY, REFERENCE, beta=0.5)
    expected = [math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(0.5)), math.log(2)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_smoothing_mixes_the_loss_with_that_of_the_turned_pair():
    straight = dpo_loss(POLICY, REFERENCE, beta=0.5)
    turned = dpo_loss(-POLICY, -REFERENCE, beta=0.5)
    found = dpo_loss(POLICY, REFERENCE, beta=0.5, label_smoothing=0.2)
    torch.testing.assert_close(found, 0.8 * straight + 0.2 * turned)


def test_hinge_by_hand():
    assert hinge_loss(POLICY, REFERENCE, beta=0.5).tolist() == pytest.approx([0.5, 1.5, 1.0])
    far = torch.tensor([9.0])
    assert hinge_loss(far, torch.zeros(1), beta=0.5).item() == 0


def test_ipo_by_hand_and_least_where_the_margin_has_grown_by_its_aim():
    assert ipo_loss(POLICY, REFERENCE, beta=0.5).tolist() == pytest.approx([0.0, 4.0, 1.0])


@pytest.mark.parametrize("loss", [dpo_loss, hinge_loss, ipo_loss])
def test_what_cannot_be_meant_is_refused(loss):
    with pytest.raises(ValueError, match="beta is 0"):
        loss(POLICY, REFERENCE, beta=0)
    with pytest.raises(ValueError, match="shapes differ"):
        loss(POLICY, REFERENCE[:2], beta=0.1)


@pytest.mark.parametrize("share", [-0.1, 0.5])
def test_smoothing_beyond_a_half_is_refused(share):
    with pytest.raises(ValueError, match="label_smoothing"):
        dpo_loss(POLICY, REFERENCE, beta=0.1, label_smoothing=share)


def test_losses_stay_finite_for_margins_that_no_exponential_can_hold():
    huge = torch.tensor([-1e4, 1e4])
    for loss in (dpo_loss, hinge_loss, ipo_loss):
        assert torch.isfinite(loss(huge, torch.zeros(2), beta=1.0)).all()
    assert torch.isfinite(bradley_terry_loss(huge, torch.zeros(2))).all()


def test_bradley_terry_by_hand():
    found = bradley_terry_loss(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)], rel=1e-6)
    with pytest.raises(ValueError, match="shapes differ"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(3))
