import pytest
import torch
from transformers import AutoConfig

from posttrain.errors import ConfigError, MissingExtraError
from posttrain.models.attention import BACK_ENDS, choose, register_attention, registered_name
from posttrain.models.attention.choose import (
    Needs,
    find_obstacle,
    read_needs,
    settle_attention,
    settle_packed,
)
from posttrain.models.attention.flash import FlashKernel

QWEN3 = AutoConfig.for_model("qwen3")
CPU = {"device": "cpu", "precision": "fp32"}


def kernel(*, softcap: bool = True, dropout: bool = True) -> FlashKernel:
    return FlashKernel("flash_attn 9.9", lambda query, key, value, call: query, softcap, dropout)


@pytest.fixture
def hopper(monkeypatch):
    """A GPU as far as can be asked without one: each back end passes its trial."""
    register_attention()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(choose, "find_error", lambda *args: None)
    found = {2: kernel(), 3: kernel(dropout=False)}
    monkeypatch.setattr(choose, "find_kernel", found.get)
    return found


def test_auto_on_a_cpu_is_sdpa_with_a_reason():
    settled = settle_attention("auto", QWEN3, **CPU)
    assert (settled.back_end, settled.name, settled.padded) == ("sdpa", "posttrain_groups", None)
    assert "packed, sdpa (torch's fused kernel" in str(settled)


def test_a_wish_is_kept():
    assert settle_attention("eager", QWEN3, **CPU).reason == "as the recipe says"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("flex", "no backward pass on a CPU"),
        ("flash_attention_2", "needs a CUDA GPU"),
        ("flash_attention_3", "needs a CUDA GPU"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_in_one_line(wanted, reason):
    with pytest.raises(ConfigError, match=rf"model\.attention: {wanted} .*{reason}") as caught:
        settle_attention(wanted, QWEN3, **CPU)
    assert "auto" in caught.value.hint


def test_bent_scores_are_never_left_to_a_kernel_that_cannot_bend_them(hopper):
    hopper[2] = kernel(softcap=False)
    needs = read_needs(AutoConfig.for_model("gemma2"), "cuda", "bf16")
    assert settle_packed("auto", needs).back_end == "flash_attention_3"
    with pytest.raises(ConfigError, match="flash_attention_2 cannot bend scores"):
        settle_packed("flash_attention_2", needs)


def test_what_cannot_be_packed_is_padded_and_says_why():
    settled = settle_attention("auto", AutoConfig.for_model("qwen3_next"), **CPU)
    assert settled.name == "sdpa"
    assert "padded" in str(settled)
    assert "qwen3_next: its layers (linear_attention) carry state" in str(settled)
    assert "slower" in str(settled)


def test_a_packed_back_end_for_what_cannot_be_packed_is_refused():
    with pytest.raises(ConfigError, match="bloom cannot be packed: its attention is code of its"):
        settle_attention("flex", AutoConfig.for_model("bloom"), **CPU)


def test_on_a_gpu_auto_takes_the_newest_kernel(hopper):
    settled = settle_packed("auto", Needs("cuda", "bfloat16"))
    assert settled.back_end == "flash_attention_3"
    assert "kernel of flash_attn 9.9" in settled.reason


def test_without_the_package_auto_goes_on_and_a_wish_names_the_command(hopper):
    hopper[3] = None
    assert settle_packed("auto", Needs("cuda", "bfloat16")).back_end == "flash_attention_2"
    with pytest.raises(MissingExtraError, match="needs the package flash_attn_3") as caught:
        settle_packed("flash_attention_3", Needs("cuda", "bfloat16"))
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (Needs("cuda", "float32"), "computes in bf16 or fp16"),
        (Needs("cuda", "bfloat16", head_size=320), "heads of up to 256"),
        (Needs("cuda", "bfloat16", head_size=100), "multiples of 8"),
        (Needs("cuda", "bfloat16", dropout=True), "drop attention weights"),
    ],
)
def test_what_flash_attention_3_cannot_do_is_named(hopper, needs, reason):
    obstacle = find_obstacle("flash_attention_3", needs)
    assert obstacle is not None
    assert reason in obstacle.reason


def test_an_older_gpu_has_no_flash_attention_3(hopper, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    settled = settle_packed("auto", Needs("cuda", "bfloat16"))
    assert settled.back_end == "flash_attention_2"
    assert "flash_attention_3 needs compute capability 9.0, this is 8.6" in settled.reason


def test_a_kernel_that_computes_wrong_results_is_passed_over(hopper, monkeypatch):
    wrong = {"flash_attention_3": "computes wrong results here (relative error 1.0e+00)"}
    monkeypatch.setattr(choose, "find_error", lambda name, *rest: wrong.get(name))
    settled = settle_packed("auto", Needs("cuda", "bfloat16"))
    assert settled.back_end == "flash_attention_2"
    assert "flash_attention_3 computes wrong results" in settled.reason
    with pytest.raises(ConfigError, match="computes wrong results"):
        settle_packed("flash_attention_3", Needs("cuda", "bfloat16"))


def test_needs_are_read_from_the_models_config():
    needs = read_needs(AutoConfig.for_model("gemma2"), "cuda", "bf16")
    assert (needs.dtype, needs.head_size, needs.softcap) == ("bfloat16", 256, True)
    assert read_needs(AutoConfig.for_model("bert"), "cpu", "fp32").dropout
    assert not read_needs(QWEN3, "cpu", "fp32").dropout


def test_no_registered_name_wakes_the_checks_of_transformers_own_code():
    names = [registered_name(back_end) for back_end in BACK_ENDS]
    assert not [name for name in names if "flash" in name or "sdpa" in name]
    assert len(set(names)) == len(BACK_ENDS)
