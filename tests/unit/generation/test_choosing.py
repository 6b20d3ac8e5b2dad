import pytest
import torch

from posttrain.errors import NonFiniteError
from posttrain.generation.choosing import choose_tokens, chosen_logprobs, find_largest


def choose(logits, noise=None, **options):
    drawn = None if noise is None else torch.tensor(noise, dtype=torch.float64)
    settings = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, **options}
    return choose_tokens(logits, **settings, noise_B=drawn).tolist()


@pytest.mark.parametrize("width", [1, 255, 256, 257, 5000])
def test_the_largest_is_found_with_its_first_place(width):
    random = torch.Generator().manual_seed(width)
    logits = torch.randint(0, 400, (7, width), generator=random).float()
    values, places = find_largest(logits)
    assert torch.equal(places, logits.argmax(-1))
    assert torch.equal(values, logits.amax(-1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_single_bad_number_is_told(bad):
    logits = torch.zeros(3, 600)
    logits[1, 599] = bad
    for noise in (None, [0.5] * 3):
        with pytest.raises(NonFiniteError):
            choose(logits, noise, temperature=0.0 if noise is None else 1.0)


def test_draws_fall_in_the_cumulated_probabilities():
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log().expand(6, -1)
    drawn = [0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-53]
    assert choose(logits, drawn, temperature=1.0) == [0, 0, 2, 2, 3, 3]
    assert choose(logits, drawn, temperature=1.0, top_k=2) == [2, 2, 2, 3, 3, 3]
    assert choose(logits, drawn, temperature=1.0, top_p=0.5) == [2] * 6
    assert choose(logits, drawn, temperature=1e-30) == [2] * 6


def test_forbidden_tokens_are_never_drawn():
    logits = torch.full((2, 9), -torch.inf)
    logits[:, 4] = -3.0
    assert choose(logits, [0.0, 1 - 2**-53], temperature=1.0) == [4, 4]


def test_logprobs_are_of_all_tokens_at_the_temperature():
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    found = chosen_logprobs(logits, torch.tensor([1]), 0.5)
    assert float(found) == pytest.approx(float((logits / 0.5).log_softmax(-1)[0, 1]))
