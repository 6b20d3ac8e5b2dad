import math

import pytest
import torch

from posttrain.errors import NonFiniteError, VerificationError
from posttrain.training.guards import WeightWatch, check_gradients, check_trainable


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def test_parameters_are_counted_and_tied_ones_once(model):
    assert check_trainable(model) == (26, 26)
    model[0].weight.requires_grad = False
    assert check_trainable(model) == (14, 26)
    tied = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    assert check_trainable(tied) == (9, 9)


def test_a_model_without_trainable_parameters_is_refused(model):
    model.requires_grad_(False)
    with pytest.raises(VerificationError, match="no parameter of the model is trainable"):
        check_trainable(model)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_named(model, poison):
    model(torch.ones(1, 3)).sum().backward()
    model[1].bias.grad[0] = poison
    with pytest.raises(NonFiniteError, match=r"step 5: the gradient of 1\.bias and 0 others"):
        check_gradients(model, 4)


def test_missing_gradients_are_refused_at_any_step(model):
    with pytest.raises(VerificationError, match="step 8: no trainable parameter received"):
        check_gradients(model, 7)


def test_zero_gradients_are_refused_in_the_first_step_only(model):
    (model(torch.ones(1, 3)).sum() * 0).backward()
    with pytest.raises(VerificationError, match="every gradient is 0"):
        check_gradients(model, 0)
    check_gradients(model, 1)


def test_weights_that_did_not_move_are_refused(model):
    watch = WeightWatch(model)
    with pytest.raises(VerificationError, match="no trainable weight has changed"):
        watch.check_moved(model)


def test_the_share_of_moved_tensors_counts_trainable_ones(model):
    model[0].weight.requires_grad = False
    watch = WeightWatch(model)
    with torch.no_grad():
        model[1].bias[1] += 1e-6
        model[0].weight += 1
    assert watch.check_moved(model) == pytest.approx(1 / 3)
