import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError
from posttrain.models.lora import add_lora, count_lora_parameters


def added_by_peft(model, config):
    wrapped = add_lora(model, config)
    return sum(p.numel() for p in wrapped.parameters() if p.requires_grad)


def test_fresh_adapters_change_no_output(make_model):
    model, ids = make_model(), torch.arange(3, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
        assert torch.equal(add_lora(model, LoraConfig(rank=4))(ids).logits, before)


def test_only_adapters_are_trainable(make_model):
    wrapped = add_lora(make_model(), LoraConfig(rank=4))
    names = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)


@pytest.mark.parametrize(
    "targets",
    ["all-linear", ("q_proj", "v_proj"), ("self_attn.o_proj",), ("layers.1.mlp.up_proj",)],
    ids=str,
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_count_is_what_peft_adds(make_model, targets, tied):
    model, config = make_model(tie_word_embeddings=tied), LoraConfig(rank=3, targets=targets)
    counted = count_lora_parameters(model, config)
    assert counted == added_by_peft(model, config) > 0


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # peft sets it
@pytest.mark.parametrize("targets", ["all-linear", ("c_attn",)], ids=str)
def test_the_count_holds_for_transposed_layers_too(targets):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))
    config = LoraConfig(rank=3, targets=targets)
    counted = count_lora_parameters(model, config)
    assert counted == added_by_peft(model, config) > 0


def test_unknown_targets_are_answered_with_the_names_there_are(make_model):
    with pytest.raises(ConfigError, match=r"lora\.targets: .*query.*; linear modules.*q_proj") as e:
        add_lora(make_model(), LoraConfig(targets=("query",)))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_on_the_output_layer_is_refused(make_model, tied):
    with pytest.raises(ConfigError, match="on the output layer lm_head is not supported"):
        add_lora(make_model(tie_word_embeddings=tied), LoraConfig(targets=("q_proj", "lm_head")))
