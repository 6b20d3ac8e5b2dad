import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig

from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError
from posttrain.layout import Segment, build_batch
from posttrain.models.lora import add_lora
from posttrain.models.output_layer import check_scorable
from posttrain.models.packed import prepare_packed, score_batch


def make_batch(*rows):
    segments = [Segment(np.array(row), np.array([0.0] + [1.0] * (len(row) - 1))) for row in rows]
    packed = build_batch(segments).items()
    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (AutoConfig.for_model("granitemoe", logits_scaling=8.0), "logits_scaling"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_changed_logits_are_refused_with_the_models_name(config, reason):
    with pytest.raises(ConfigError) as caught:
        check_scorable(config)
    assert config.model_type in str(caught.value)
    assert reason in str(caught.value)


def test_plain_calls_and_generation_stay_as_they_were(make_model):
    plain, prepared = make_model(), make_model()
    prepare_packed(prepared)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        before, after = plain(ids), prepared(ids)
        assert torch.equal(before.logits, after.logits)
        assert after.past_key_values is not None
        last = prepared(ids, logits_to_keep=1).logits
    assert torch.equal(last, plain(ids, logits_to_keep=1).logits)
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(plain.generate(ids, **options), prepared.generate(ids, **options))


def test_plain_calls_after_scoring_are_plain_again(make_model):
    model = make_model(attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    score_batch(model, make_batch([5, 6, 7]))
    model.set_attn_implementation("sdpa")
    assert model(torch.arange(3, 9)[None]).logits.shape == (1, 6, 97)


def test_scoring_makes_no_cache(make_model):
    model = make_model(attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    inputs = {n: v for n, v in make_batch([5, 6, 7]).items() if n != "score_weights"}
    assert model(**inputs).past_key_values is None


def test_a_call_that_failed_leaves_no_targets_behind(make_model):
    model = make_model(attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    batch = make_batch([5, 6, 7])
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        score_batch(model, {**batch, "input_ids": torch.full((1, 3), 10_000)})
    model.set_attn_implementation("sdpa")
    assert model(torch.arange(3, 9)[None]).logits.shape == (1, 6, 97)


def test_packed_attention_without_a_segment_table_is_refused(make_model):
    model = make_model(attn_implementation="posttrain_sdpa")
    with pytest.raises(ValueError, match="without a segment table"):
        model(torch.arange(3, 9)[None])


def test_scoring_works_through_adapters(make_model):
    batch = make_batch([5, 6, 7, 8], [9, 10, 11])
    model = make_model(attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    before = score_batch(model, batch).logprobs_N.detach()
    wrapped = add_lora(model, LoraConfig(rank=2))
    scores = score_batch(wrapped, batch)
    assert torch.equal(scores.logprobs_N, before)
    scores.logprobs_N.sum().backward()
    assert {
        n.rpartition(".lora_")[2][0] for n, p in wrapped.named_parameters() if p.grad is not None
    } == {"A", "B"}


def test_scoring_works_when_only_the_forward_methods_are_called(make_model):
    """peft before 0.21 calls `forward` of the model inside, which passes module hooks by."""
    batch = make_batch([5, 6, 7, 8], [9, 10, 11])
    model = make_model(attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    inputs = {name: value for name, value in batch.items() if name != "score_weights"}
    direct = model.forward(**inputs).logits[0, :, 0]
    assert torch.equal(direct, score_batch(model, batch).logprobs_N)


def test_scoring_works_inside_distributed_data_parallel(make_model, tmp_path):
    batch = make_batch([5, 6, 7, 8], [9, 10, 11])
    model = make_model(attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    expected = score_batch(model, batch).logprobs_N
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        scores = score_batch(DistributedDataParallel(model), batch)
        scores.logprobs_N.sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(scores.logprobs_N, expected)
    assert all(parameter.grad is not None for parameter in model.parameters())
