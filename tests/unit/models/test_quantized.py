"""Models whose layers are held in four bits."""

import numpy as np
import pytest
import torch

pytest.importorskip("bitsandbytes")

from posttrain.config.model import LoraConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.layout import Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.load import Quantization, load_model
from posttrain.models.lora import add_lora, count_elements, widen_norms
from posttrain.models.memory import weigh_frozen
from posttrain.models.packed import prepare_packed, score_batch

NF4 = Quantization("nf4", "cpu")


def load(path="tiny", **options):
    options = {"attention": "posttrain_sdpa", "dtype": "float32", **options}
    register_attention()
    return load_model(ModelConfig(path=str(path)), **options)


def test_a_packed_batch_scores_as_one_row_after_the_other():
    rows = [np.arange(5, 25), np.arange(100, 140)]
    segments = [Segment(row, np.array([0.0] + [1.0] * (len(row) - 1))) for row in rows]
    batch = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in build_batch(segments).items()
    }
    plain = load(quantization=NF4, attention="sdpa")
    wanted = []
    for row in rows:
        ids = torch.from_numpy(row)[None]
        with torch.no_grad():
            logp = plain(input_ids=ids).logits[0, :-1].log_softmax(-1)
        wanted.append(logp.gather(1, ids[0, 1:, None])[:, 0])
    model = load(quantization=NF4, prepare=prepare_packed)
    with torch.no_grad():
        found = score_batch(model, batch).logprobs_N
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-4, rtol=1e-4)


def test_every_adapter_gets_a_gradient_and_the_output_layer_stays_whole():
    model = load(quantization=NF4, prepare=prepare_packed)
    widen_norms(model)
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    model = add_lora(model, LoraConfig(rank=2)).train()
    ids = np.arange(5, 25)
    batch = build_batch([Segment(ids, np.array([0.0] + [1.0] * 19))]).items()
    scores = score_batch(
        model, {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch}
    )
    scores.logprobs_N.sum().backward()
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained == [n for n, p in model.named_parameters() if "lora_" in n]
    moved = [p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n]
    assert len(moved) == 21
    assert all(moved)


def test_the_estimate_of_memory_is_what_the_weights_take():
    whole, packed = load(), load(quantization=NF4)
    count = sum(p.numel() for p in whole.parameters())
    assert sum(count_elements(p) for p in packed.parameters()) == count
    held = 0
    for parameter in packed.parameters():
        held += parameter.numel() * parameter.element_size()
        if state := getattr(parameter, "quant_state", None):
            held += state.absmax.numel() * state.absmax.element_size()
            held += state.state2.absmax.numel() * 4
    assert weigh_frozen(whole, nf4=True, bf16=False) * count == pytest.approx(held, rel=1e-3)
    assert weigh_frozen(whole, nf4=False, bf16=True) == 2


def test_norms_are_held_in_fp32():
    model = load(quantization=NF4, dtype="bfloat16")
    widen_norms(model)
    assert model.model.norm.weight.dtype == torch.float32
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_a_quantized_model_is_not_quantized_again(tmp_path):
    load(quantization=NF4).save_pretrained(tmp_path)
    assert load(tmp_path).model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    with pytest.raises(ConfigError, match="quantized already"):
        load(tmp_path, quantization=NF4)
