"""A model that has learned when to end: it counts down from the number it is given."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.generation.generator import GenerationOptions
from posttrain.generation.in_flight import write_in_flight
from posttrain.generation.local import build_requests
from posttrain.generation.static import write_static

MOST, FILLER, START, END = 40, 41, 42, 43
"""Numbers are tokens 0 to MOST."""


@pytest.fixture(scope="module")
def model():
    config = Qwen3Config(
        vocab_size=END + 1,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=FILLER,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Qwen3ForCausalLM(config)
        optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3, weight_decay=0.0)
        for _ in range(250):
            ids, wanted = make_batch(torch.randint(0, MOST + 1, (48,)).tolist())
            loss = cross_entropy(made(ids).logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return made.eval()


def make_prompt(number, fillers):
    return [*[FILLER] * fillers, number, START]


def make_batch(numbers):
    """Prompts with their answers, and what is trained on."""
    rows = []
    for number in numbers:
        fillers = int(torch.randint(0, 12, ()))
        rows.append((make_prompt(number, fillers), [*range(number, -1, -1), END]))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), FILLER)
    wanted = torch.full((len(rows), width), -100)
    for row, (prompt, answer) in enumerate(rows):
        whole = len(prompt) + len(answer)
        ids[row, :whole] = torch.tensor(prompt + answer)
        wanted[row, len(prompt) : whole] = torch.tensor(answer)
    return ids, wanted


@pytest.fixture(scope="module")
def tokenizer():
    """Enough of one: texts are the tokens' numbers."""
    return SimpleNamespace(
        eos_token_id=END,
        pad_token_id=FILLER,
        decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)),
    )


NUMBERS = [17, 3, 40, 0, 28, 8, 8, 35, 1, 22, 12, 5, 31, 2, 19, 38]
PROMPTS = [make_prompt(number, place % 12) for place, number in enumerate(NUMBERS)]


@pytest.mark.parametrize("way", [write_in_flight, write_static])
@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_answers_end_where_the_model_has_learned_to(model, tokenizer, way, batch_size):
    requests, options = build_requests(PROMPTS), GenerationOptions(64)
    found = dict(way(model, tokenizer, requests, options, batch_size))
    for place, number in enumerate(NUMBERS):
        assert found[place].token_ids == (*range(number, -1, -1), END)
        assert found[place].finished
        assert found[place].text == " ".join(map(str, range(number, -1, -1)))


def test_short_answers_come_first_and_make_room(model, tokenizer):
    """With two slots, the longest answer must not hold up the others."""
    numbers = [40, 1, 2, 3, 1, 2]
    requests = build_requests([make_prompt(number, 3) for number in numbers])
    order = [
        index for index, _ in write_in_flight(model, tokenizer, requests, GenerationOptions(64), 2)
    ]
    assert order[-1] == 0, "five answers of 15 tokens together fit beside one of 42"


def test_greedy_is_what_generate_writes_one_by_one(model, tokenizer):
    requests = build_requests(PROMPTS)
    found = dict(write_in_flight(model, tokenizer, requests, GenerationOptions(64), 4))
    for place, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False
            )
        assert list(found[place].token_ids) == output[0, len(prompt) :].tolist()
