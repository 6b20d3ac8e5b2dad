"""Packed encoder batches give what transformers itself gives for each text, one by one."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from posttrain.config.train import MaskConfig
from posttrain.data.masking import Masking, mask_batch
from posttrain.layout import Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.masked import prepare_masked, score_masked
from posttrain.models.packing import find_packing_obstacle
from posttrain.training.mlm import MaskedObjective

VOCABULARY = 97
MASK = 4
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
# Two local layers of three; a token sees four others on each side.
MODERN = {**SHAPE, "global_attn_every_n_layers": 3, "local_attention": 8, "cls_token_id": 1}
MODERN |= {"sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
DISTIL = {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
FAMILIES = {
    "bert": (BertForMaskedLM, BertConfig, SHAPE),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig, MODERN),
    "roberta": (RobertaForMaskedLM, RobertaConfig, SHAPE),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig, DISTIL),
}
LENGTHS = [9, 8, 3, 23, 24, 5, 14]


def build_model(family: str, attention: str = "eager") -> Any:
    register_attention()
    model_class, config_class, shape = FAMILIES[family]
    config = config_class(**shape)
    config._attn_implementation = attention
    torch.manual_seed(3)
    model = model_class(config).eval()
    with torch.no_grad():  # away from the initial weights, where attention is close to uniform
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_batch(lengths: list[int] = LENGTHS) -> dict[str, Any]:
    random = np.random.default_rng(7)
    segments = [Segment(random.integers(5, VOCABULARY, n), np.zeros(n)) for n in lengths]
    masking = Masking(MaskConfig(share=0.3), MASK, [0, 1, 2, MASK], VOCABULARY)
    packed = mask_batch(build_batch(segments), masking, [1])
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed.items()}


def score_plainly(model: Any, batch: dict[str, Any]) -> list[torch.Tensor]:
    """Log-probability, entropy and correctness through transformers' own forward, text by text."""
    table = batch["segments"]
    columns: list[list[torch.Tensor]] = [[], [], []]
    for number, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
        own = batch["score_segments"] == number
        logits = model(batch["input_ids"][:, start : start + length]).logits[0].float()
        logits = logits[batch["score_positions"][own] - start]
        targets, logp = batch["score_targets"][own], logits.log_softmax(-1)
        columns[0].append(logp.gather(-1, targets[:, None])[:, 0])
        columns[1].append(-(logp.exp() * logp).sum(-1))
        columns[2].append((logits.argmax(-1) == targets).float())
    return [torch.cat(column) for column in columns]


def gradients(model: Any, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    (-logprobs.mean()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("back_end", ["eager", "sdpa", "flex"])
def test_packed_scores_equal_transformers_one_by_one(family, back_end):
    batch = make_batch()
    model = build_model(family, f"posttrain_{back_end}")
    assert find_packing_obstacle(model.config) is None
    prepare_masked(model)
    with torch.no_grad():
        found = score_masked(model, batch)
        expected = score_plainly(build_model(family), batch)
    for values, wanted in zip(found[:3], expected, strict=True):
        torch.testing.assert_close(values, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("back_end", ["eager", "sdpa"])
@pytest.mark.parametrize("lengths", [LENGTHS, [7, 7, 7], [6, 5]], ids=["mixed", "equal", "short"])
def test_packed_gradients_equal_transformers_one_by_one(family, back_end, lengths):
    batch = make_batch(lengths)
    plain, packed = build_model(family), build_model(family, f"posttrain_{back_end}")
    expected = gradients(plain, score_plainly(plain, batch)[0])
    prepare_masked(packed)
    found = gradients(packed, score_masked(packed, batch).logprobs_N)
    assert found.keys() == expected.keys()
    # A bias of the keys shifts all scores of a row alike: its gradient is 0 but for rounding.
    worst = max(
        float((found[n] - expected[n]).norm() / expected[n].norm().clamp_min(1e-3))
        for n in expected
    )
    assert worst < 1e-5


def pad(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The batch as transformers takes it: a padded row a text, -100 where nothing is asked."""
    table = batch["segments"]
    shape = (len(table.lengths), max(table.lengths))
    ids, seen = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    asked = torch.full((table.total_tokens,), -100)
    asked[batch["score_positions"]] = batch["score_targets"]
    for row, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
        ids[row, :length] = batch["input_ids"][0, start : start + length]
        labels[row, :length] = asked[start : start + length]
        seen[row, :length] = 1
    return {"input_ids": ids, "attention_mask": seen, "labels": labels}


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_loss_and_gradients_equal_transformers_own_masked_loss_on_padded_rows(family):
    batch = make_batch()
    plain, packed = build_model(family, "sdpa"), build_model(family, "posttrain_sdpa")
    loss = plain(**pad(batch)).loss
    loss.backward()
    prepare_masked(packed)
    objective = MaskedObjective()
    result = objective.measure(packed, batch, objective.weigh(batch))
    result.loss.backward()
    torch.testing.assert_close(result.loss, loss, rtol=1e-6, atol=1e-6)
    found = dict(packed.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            error = (found[name].grad - parameter.grad).norm()
            assert error <= 1e-5 * parameter.grad.norm().clamp_min(1e-3), name


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_rows_equal_transformers_one_by_one_for_every_encoder(family):
    """Encoders that cannot be packed, such as RoBERTa with its shifted positions, run so."""
    batch = make_batch()
    model = build_model(family)
    expected = score_plainly(model, batch)
    wanted = gradients(model, expected[0])
    model.zero_grad()
    prepare_masked(model)
    found = score_masked(model, batch)
    for values, right in zip(found[:3], expected, strict=True):
        torch.testing.assert_close(values.detach(), right.detach(), rtol=1e-5, atol=2e-6)
    for name, gradient in gradients(model, found.logprobs_N).items():
        assert (gradient - wanted[name]).norm() < 1e-5 * wanted[name].norm().clamp_min(1e-3)


def test_a_text_is_blind_to_its_neighbours():
    model = build_model("modernbert", "posttrain_sdpa")
    prepare_masked(model)
    batch = make_batch()
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, :9] = 50
    with torch.no_grad():
        before, after = (score_masked(model, b).logprobs_N for b in (batch, changed))
    other = batch["score_segments"] != 0
    assert torch.equal(before[other], after[other])
    assert not torch.equal(before[~other], after[~other])


def test_plain_calls_stay_as_they_were():
    plain, prepared = build_model("bert"), build_model("bert")
    prepare_masked(prepared)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, prepared(ids).logits)
