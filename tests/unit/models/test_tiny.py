import os
import subprocess
import sys

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.data.encode import EncodeOptions, encode_records
from posttrain.data.records import Chat, Origin, Record
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import stock_codec
from posttrain.files import digest_file
from posttrain.models.tiny import QWEN3_VOCABULARY, ensure_tiny

TEXTS = [
    "Liam has 3 apples & buys 1,234.50 more — 小明有 3 个苹果。",
    "👩‍👩‍👧‍👦 🇨🇳 emoji, zero-width\u200d and combining e\u0301",
    "  leading,\ttabs\n\n\nand newlines \u3000 wide",
    "العربية עברית हिन्दी",
    "\x00\x07 control, \u2028 separators",
]


def digests(folder):
    return {path.name: digest_file(path) for path in folder.iterdir()}


def test_two_builds_are_identical_file_by_file(cache_dir, tmp_path):
    """One in a process of its own: nothing may depend on hash seeds or what ran before."""
    code = "from posttrain.models.tiny import ensure_tiny; print(ensure_tiny('tiny'))"
    environment = {**os.environ, "POSTTRAIN_CACHE": str(tmp_path), "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    first, second = ensure_tiny("tiny"), next((tmp_path / "models").glob("tiny-*/"))
    assert str(second) == other.stdout.strip()
    assert first.parent != second.parent
    assert digests(first) == digests(second)
    assert "model.safetensors" in digests(first)


def test_a_made_model_is_found_again(cache_dir):
    folder = ensure_tiny("tiny")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert ensure_tiny("tiny") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_every_digit_is_a_token_of_its_own(tiny_tokenizer):
    ids = tiny_tokenizer("1234567890 20 3.14", add_special_tokens=False)["input_ids"]
    pieces = [tiny_tokenizer.decode([i]).strip() for i in ids]
    assert [p for p in pieces if any(c.isdigit() for c in p)] == list("123456789020314")


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_as_it_was(tiny_tokenizer, text):
    ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text


def test_special_tokens_are_one_token_each(tiny_tokenizer):
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(tiny_tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    assert tiny_tokenizer.eos_token == "<|im_end|>"
    assert tiny_tokenizer.pad_token_id != tiny_tokenizer.eos_token_id


def test_the_templates_own_marks_are_our_mask(tiny_tokenizer):
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "3 + 4?"},
        {"role": "assistant", "content": "7"},
        {"role": "user", "content": "再加 5？"},
        {"role": "assistant", "content": "12 🎉"},
    )
    record = Record(Chat(messages), Origin("rows.jsonl", 1))
    (example,) = encode_records(
        [record], ChatRenderer(tiny_tokenizer), stock_codec(tiny_tokenizer), EncodeOptions(512)
    )
    marked = tiny_tokenizer.apply_chat_template(
        list(messages), return_dict=True, return_assistant_tokens_mask=True
    )
    assert example.token_ids.tolist() == marked["input_ids"]
    assert example.trained.astype(int).tolist() == marked["assistant_masks"]
    assert np.count_nonzero(example.trained) > 4


def test_vocabulary_and_output_rows_agree(cache_dir, tiny_tokenizer):
    model = AutoModelForCausalLM.from_pretrained(ensure_tiny("tiny"))
    assert model.get_output_embeddings().weight.shape[0] == len(tiny_tokenizer)
    assert model.generation_config.eos_token_id == tiny_tokenizer.eos_token_id


def test_the_wide_model_has_as_many_rows_as_qwen3(cache_dir):
    folder = ensure_tiny("tiny-wide")
    assert AutoConfig.from_pretrained(folder).vocab_size == QWEN3_VOCABULARY == 151_936
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight.shape == (151_936, 192)
