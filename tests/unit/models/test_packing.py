import pytest
from transformers import AutoConfig, BertConfig, RobertaConfig

from posttrain.models.packing import find_packing_obstacle


@pytest.mark.parametrize(
    "name",
    ["qwen3", "qwen2", "llama", "gemma", "granite", "olmo2", "smollm3", "mistral", "gemma3_text"],
)
def test_full_attention_and_windows_are_packable(name):
    assert find_packing_obstacle(AutoConfig.for_model(name)) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (AutoConfig.for_model("qwen3_next"), "linear_attention"),
        (AutoConfig.for_model("mamba2"), "linear_attention"),
        (AutoConfig.for_model("jamba"), "linear_attention"),
        (AutoConfig.for_model("falcon_h1"), "state"),
        (AutoConfig.for_model("llama4_text"), "chunked_attention"),
        (AutoConfig.for_model("gpt_oss"), "sinks"),
        (AutoConfig.for_model("bloom"), "code of its own"),
        (AutoConfig.for_model("t5"), "not transformers' own"),
        (RobertaConfig(), "mix texts"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_what_packing_would_change_is_named_with_its_reason(config, reason):
    assert reason in str(find_packing_obstacle(config))


def test_code_that_comes_with_a_model_is_not_trusted_to_pack():
    config = AutoConfig.for_model("qwen3")
    config.auto_map = {"AutoModelForCausalLM": "modeling_other.OtherForCausalLM"}
    assert "not transformers' own" in str(find_packing_obstacle(config))


def test_encoders_are_packed_where_tests_have_shown_it():
    assert find_packing_obstacle(BertConfig()) is None
