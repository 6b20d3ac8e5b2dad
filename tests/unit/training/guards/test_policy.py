import math

import pytest
import torch

from posttrain.errors import NonFiniteError, VerificationError
from posttrain.training.guards.policy import PolicyWatch, check_logprobs, check_sampler

GOOD = {"entropy": 2.0, "equal_groups": 0.2, "unfinished": 0.1, "reward_format": 0.8}


@pytest.mark.parametrize("poison", [math.nan, -math.inf])
def test_log_probabilities_that_are_no_numbers_name_the_prompts(poison):
    logprobs_N = torch.tensor([-1.0, -2.0])
    check_logprobs(logprobs_N, 3, ["a.jsonl:1"])
    logprobs_N[1] = poison
    with pytest.raises(NonFiniteError, match=r"step 3: the log-probability of .* a\.jsonl:1"):
        check_logprobs(logprobs_N, 3, ["a.jsonl:1"])


@pytest.mark.parametrize("gap", [0.2, math.nan])
def test_a_sampler_that_differs_is_refused(gap):
    check_sampler(0.09, 0.1, 1)
    with pytest.raises(VerificationError, match="step 1: sampler and trainer differ by"):
        check_sampler(gap, 0.1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"entropy": 0.19}, "entropy has fallen from 2 to 0.19"),
        ({"unfinished": 0.6}, "60% of the answers ran out of room"),
        ({"reward_format": 0.05}, "only 5% of the answers are written in the form"),
    ],
)
def test_each_warning_comes_once(change, said):
    watch = PolicyWatch()
    assert watch.look(GOOD) == []
    (line,) = watch.look(GOOD | change)
    assert line.startswith(said)
    assert watch.look(GOOD | change) == []


def test_equal_groups_count_when_they_stay():
    watch, resumed = PolicyWatch(), PolicyWatch()
    bad = GOOD | {"equal_groups": 1.0}
    assert [watch.look(line) for line in (bad, bad, GOOD, bad, bad)] == [[]] * 5
    resumed.load(watch.save())
    (line,) = resumed.look(bad)
    assert line.startswith("3 log lines in a row, in most groups all answers are worth the same")
