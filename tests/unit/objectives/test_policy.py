"""Policy gradients: worked by hand, against direct sums, and where they must stop."""

import math

import pytest
import torch

from posttrain.objectives.policy import (
    clipped_policy_loss,
    clipped_value_loss,
    generalized_advantages,
    group_advantages,
    reference_kl,
)


def test_group_advantages_by_hand():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert group_advantages(rewards, scale=False).tolist() == [0.5, -0.5, -0.5, 0.5]
    # Sample standard deviation: sqrt((4 * 0.25) / 3).
    deviation = math.sqrt(1 / 3)
    expected = [0.5 / (deviation + 1e-4), -0.5 / (deviation + 1e-4)]
    scaled = group_advantages(rewards, scale=True)
    assert scaled.tolist() == pytest.approx([expected[i] for i in (0, 1, 1, 0)])


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, 12345.678])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_equal_rewards_give_exactly_no_advantage(reward, scale, size):
    assert group_advantages(torch.full((size,), reward), scale=scale).eq(0).all()


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 completions"):
        group_advantages(torch.tensor([1.0]), scale=True)


def direct_sum(rewards, values, gamma, lam):
    """A_t = sum over k of (gamma lambda)^k times the surprise k tokens later."""
    length = len(rewards)
    after = [*values[1:], 0.0]
    surprises = [rewards[t] + gamma * after[t] - values[t] for t in range(length)]
    return [
        sum((gamma * lam) ** (k - t) * surprises[k] for k in range(t, length))
        for t in range(length)
    ]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (1.0, 0.0)])
def test_generalized_advantages_equal_the_double_sum(gamma, lam):
    torch.manual_seed(0)
    rewards, values = torch.randn(9), torch.randn(9)
    found = generalized_advantages(rewards, values, gamma=gamma, gae_lambda=lam)
    expected = direct_sum(rewards.tolist(), values.tolist(), gamma, lam)
    assert found.dtype == rewards.dtype
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_generalized_advantages_at_both_ends():
    rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.25, 0.5, 0.75])
    whole = generalized_advantages(rewards, values, gamma=1.0, gae_lambda=1.0)
    assert whole.tolist() == [0.75, 0.5, 0.25]  # all rewards to come, less the estimate
    single = generalized_advantages(rewards, values, gamma=1.0, gae_lambda=0.0)
    assert single.tolist() == [0.25, 0.25, 0.25]  # the next estimate, less the estimate
    discounted = generalized_advantages(rewards, torch.zeros(3), gamma=0.5, gae_lambda=1.0)
    assert discounted.tolist() == [0.25, 0.5, 1.0]


def test_generalized_advantages_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        generalized_advantages(torch.zeros(3), torch.zeros(2), gamma=1.0, gae_lambda=1.0)


CLIPPING = [
    # ratio, advantage, loss, whether the gradient stops
    (1.0, 2.0, -2.0, False),
    (1.2, 1.0, -1.2, False),  # inside the upper bound of 1.3
    (1.5, 1.0, -1.3, True),  # has risen enough
    (0.5, 1.0, -0.5, False),  # fell though it is good: pulled back, however far it fell
    (0.9, -1.0, 0.9, False),  # inside the lower bound of 0.8
    (0.5, -1.0, 0.8, True),  # has fallen enough
    (1.5, -1.0, 1.5, False),  # rose though it is bad: pushed down, however far it rose
    (1.5, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "stopped"), CLIPPING)
def test_clipping_of_both_signs_at_both_bounds(ratio, advantage, loss, stopped):
    old = torch.tensor([-1.0])
    logprobs = (old + math.log(ratio)).requires_grad_()
    found, clipped = clipped_policy_loss(
        logprobs, old, torch.tensor([advantage]), clip_low=0.2, clip_high=0.3
    )
    found.sum().backward()
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert clipped.item() == float(stopped)
    # d(-ratio * A) / d logp = -ratio * A, or nothing once it is clipped.
    slope = 0.0 if stopped else -ratio * advantage
    assert logprobs.grad.item() == pytest.approx(slope, abs=1e-6)


def test_policy_loss_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        clipped_policy_loss(
            torch.zeros(3), torch.zeros(3), torch.zeros(2), clip_low=0.2, clip_high=0.2
        )


def test_the_mean_of_the_kl_estimates_is_the_divergence():
    torch.manual_seed(0)
    policy = torch.randn(6).log_softmax(0)
    reference = torch.randn(6).log_softmax(0)
    true = float((policy.exp() * (policy - reference)).sum())
    # Exactly, as the expectation over what the policy writes...
    each = reference_kl(policy, reference)
    assert float((policy.exp() * each).sum()) == pytest.approx(true, rel=1e-5)
    # ... and as a mean over samples.
    drawn = torch.multinomial(policy.exp(), 200_000, replacement=True)
    sampled = reference_kl(policy[drawn], reference[drawn])
    spread = float(sampled.std()) / math.sqrt(len(drawn))
    assert float(sampled.mean()) == pytest.approx(true, abs=5 * spread)
    assert true > 0.1
    assert sampled.min() >= 0


def test_the_kl_estimate_is_flat_where_the_models_agree():
    logprobs = torch.tensor([-0.5, -2.0], requires_grad=True)
    found = reference_kl(logprobs, logprobs.detach())
    found.sum().backward()
    assert found.tolist() == [0.0, 0.0]
    assert logprobs.grad.tolist() == [0.0, 0.0]


VALUES = [
    # estimate, old estimate, return, loss, slope
    (0.1, 0.0, 1.0, 0.5 * 0.9**2, -0.9),  # moved by less than 0.2
    (0.5, 0.0, 1.0, 0.5 * 0.8**2, 0.0),  # moved far, the right way: held at 0.2
    (-0.5, 0.0, 1.0, 0.5 * 1.5**2, -1.5),  # moved far, the wrong way: pulled back
    (2.0, 0.9, 1.0, 0.5 * 1.0**2, 1.0),  # shot over: the worse error counts
]


@pytest.mark.parametrize(("value", "old", "target", "loss", "slope"), VALUES)
def test_clipped_value_loss_by_hand(value, old, target, loss, slope):
    values = torch.tensor([value], requires_grad=True)
    found = clipped_value_loss(values, torch.tensor([old]), torch.tensor([target]), clip=0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope)
