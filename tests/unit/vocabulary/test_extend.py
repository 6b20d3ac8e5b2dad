import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from posttrain.checkpoints import find_damage
from posttrain.config.load import build_settings
from posttrain.config.model import ModelConfig
from posttrain.config.vocabulary import VocabularyConfig
from posttrain.errors import CheckpointError, ConfigError, DataError, VerificationError
from posttrain.files import load_jsonl
from posttrain.models.tiny import ensure_tiny
from posttrain.vocabulary.extend import extend_tokenizer


@pytest.fixture
def settings(tmp_path, cases):
    """Settings with small texts, for any changes."""
    path = tmp_path / "cases.txt"
    path.write_text("\n\n".join(cases))

    def make(*overrides):
        given = {"texts": str(path), "min_frequency": 3, "new_tokens": 50}
        return build_settings(VocabularyConfig, given, overrides)

    return make


@pytest.fixture
def tiny_copy(tmp_path, cache_dir):
    """The built-in model in other number formats, with more settings, or damaged."""

    def make(edit, dtype=torch.float32):
        place = ensure_tiny("tiny")
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
        edit(model)
        model.save_pretrained(tmp_path / "copy")
        AutoTokenizer.from_pretrained(place).save_pretrained(tmp_path / "copy")
        return ModelConfig(path=str(tmp_path / "copy"))

    return make


def test_the_whole_of_it(settings, tmp_path, cases, tiny_tokenizer):
    out = tmp_path / "out"
    report = extend_tokenizer(settings("held_out=0.2", "seed=1"), ModelConfig(path="tiny"), out)
    assert find_damage(out) is None
    assert report == json.loads((out / "vocabulary.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert model.config.vocab_size == report["rows_after"] == 1600
    assert len(tokenizer) == 1536 + report["new_tokens"] <= 1586
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not list(out.glob("*.bin"))
    assert report["measured_on"] == "held-out texts"
    assert 0 < report["domain"]["documents"] < len(cases)
    assert report["domain"]["tokens_after"] < 0.7 * report["domain"]["tokens_before"]
    assert report["control"]["changed"] == 0 < report["control"]["lines"]
    assert report["proofs"]["logit_gap"] <= 1e-5
    ids = tokenizer("确诊糖尿病", add_special_tokens=False)["input_ids"]
    entries = {token["id"]: token for token in report["tokens"]}
    pieces = [piece for id_ in ids for piece in entries[id_]["pieces"]]
    assert len(pieces) == len(tiny_tokenizer.tokenize("确诊糖尿病")) > len(ids)
    assert all(entries[id_]["saves"] >= 3 for id_ in ids)
    with torch.no_grad():
        assert model(torch.tensor([ids])).logits.isfinite().all()


def test_number_format_and_generation_settings_stay(settings, tmp_path, tiny_copy):
    def edit(model):
        model.generation_config.max_new_tokens = 77

    source = tiny_copy(edit, torch.bfloat16)
    extend_tokenizer(settings(), source, tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(source.path, dtype="auto")
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert after.dtype == torch.bfloat16
    assert after.generation_config.max_new_tokens == 77
    old, new = before.state_dict(), after.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name][: len(old[name])]) for name in old)


def test_failed_proof_publishes_nothing(settings, tmp_path, tiny_copy):
    def spoil(model):
        model.model.layers[0].mlp.down_proj.weight.data.fill_(float("nan"))

    source = tiny_copy(spoil)
    with pytest.raises(VerificationError, match="logits"):
        extend_tokenizer(settings(), source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.txt", "copy"]


def test_list_of_tokens(settings, tmp_path):
    terms = tmp_path / "terms.txt"
    terms.write_text("糖尿病\n二甲双胍\ntype 2\n")
    report = extend_tokenizer(
        settings(f"tokens_file={terms}"), ModelConfig(path="tiny"), tmp_path / "out"
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert [len(tokenizer.tokenize(term)) for term in ("糖尿病", "二甲双胍")] == [1, 1]
    assert report["wanted"] == 2
    assert [line["line"] for line in report["refused"]] == [3]
    saved = {token["text"]: token["saves"] for token in report["tokens"]}
    assert saved["糖尿病"] > 0
    without = build_settings(VocabularyConfig, {"tokens_file": str(terms)}, [])
    alone = extend_tokenizer(without, ModelConfig(path="tiny"), tmp_path / "alone")
    assert alone["domain"]["documents"] == 0
    assert alone["new_tokens"] == report["new_tokens"]


def test_unusable_rows_are_kept_with_their_reason(settings, tmp_path, cases):
    rows = tmp_path / "rows.jsonl"
    good = [json.dumps({"content": text}) for text in cases]
    rows.write_text("\n".join([*good, '{"content": ""}']) + "\n")
    report = extend_tokenizer(settings(f"texts={rows}"), ModelConfig(path="tiny"), tmp_path / "out")
    [reject] = load_jsonl(tmp_path / "out/rejects.jsonl")
    assert (report["rejected_rows"], reject["line"], reject["reason"]) == (
        1,
        len(good) + 1,
        "no text",
    )
    rows.write_text("\n".join([*good, *['{"body": "x"}'] * 9]) + "\n")
    with pytest.raises(DataError, match=rf"rows.jsonl:{len(good) + 1}: 9 of 33 rows.*text_fields"):
        extend_tokenizer(settings(f"texts={rows}"), ModelConfig(path="tiny"), tmp_path / "out")


def test_text_without_anything_frequent(settings, tmp_path):
    with pytest.raises(DataError, match=r"no new token saves 999 tokens in .* lower min_frequency"):
        extend_tokenizer(settings("min_frequency=999"), ModelConfig(path="tiny"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapter_and_quantized_model_are_refused(settings, tmp_path, tiny_copy):
    source = tiny_copy(lambda model: None)
    folder = tmp_path / "copy"
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"is quantized.*then quantize"):
        extend_tokenizer(settings(), source, tmp_path / "out")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is an adapter.*merge it first"):
        extend_tokenizer(settings(), source, tmp_path / "out")


def test_texts_or_list_is_needed():
    with pytest.raises(ConfigError, match="give `texts`"):
        build_settings(VocabularyConfig, {}, [])


def test_real_tokenizer_with_spare_rows(settings, tmp_path, shared_data):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8, tie_word_embeddings=False,
        eos_token_id=151_645,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "small")
    model = ModelConfig(
        path=str(tmp_path / "small"), tokenizer=str(shared_data / "tokenizers/qwen3")
    )
    texts = f"texts={shared_data / 'text/lunyu_zh.txt'}"
    report = extend_tokenizer(settings(texts, "new_tokens=400"), model, tmp_path / "report")
    # The first of them use rows that the model had to spare.
    assert (report["first_new_id"], report["rows_before"]) == (151_669, 151_936)
    assert report["rows_after"] % 64 == 0
    assert report["rows_after"] >= 151_669 + report["new_tokens"] > 151_936
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "report")
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]) == [151_643, 151_645]
    assert report["domain"]["tokens_after"] < 0.9 * report["domain"]["tokens_before"]
    assert report["control"]["changed"] == 0
