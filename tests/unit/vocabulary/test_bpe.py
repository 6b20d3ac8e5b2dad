import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from posttrain.errors import ConfigError
from posttrain.vocabulary.bpe import load_byte_bpe, save_tokenizer, to_bytes, to_text


def test_byte_letters_are_those_of_the_tokenizers_library():
    letters = pre_tokenizers.ByteLevel.alphabet()
    assert sorted(to_bytes(letter)[0] for letter in letters) == list(range(256))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("a b\n", "糖尿病", "\x00\x7f\u00ad\u0100", "😀"):
        assert to_text(byte_level.pre_tokenize_str(text)[0][0]) == text
    assert to_text("ç³") is None  # two of the three bytes of 糖
    assert to_bytes("糖") is None  # no byte letter


def test_new_ids_follow_all_tokens_and_special_ones_keep_theirs(build, tmp_path):
    tokenizer = build("a+b", special=("<eos>", "<pad>"))
    assert tokenizer.convert_tokens_to_ids(["<eos>", "<pad>"]) == [257, 258]
    grown = load_byte_bpe(tokenizer, "small").extend([("ab", "c"), ("abc", "abc")])
    assert grown.new_ids == {"abc": 259, "abcabc": 260}
    save_tokenizer(tokenizer, grown, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("abcabc<pad>abc<eos>ab")["input_ids"] == [260, 258, 259, 257, 256]
    assert len(loaded) == 261
    assert loaded.eos_token_id == 257


def test_expansion_is_the_old_encoding(build, expand):
    tokenizer = build("a+b", "c+d")
    base = load_byte_bpe(tokenizer, "small")
    grown = base.extend([("ab", "cd"), ("abcd", "e"), ("e", "ab")])
    texts = ["abcde", "eabcde", "eab cdab abc", "", "deabcdab"]
    assert expand(grown, texts) == [e.ids for e in base.encode(texts)]
    assert [len(e.ids) for e in grown.encode(texts[:2])] == [1, 2]


def test_no_truncation_is_taken_over(build):
    tokenizer = build("a+b")
    tokenizer.backend_tokenizer.enable_truncation(2)
    assert len(load_byte_bpe(tokenizer, "small").encode(["xyzxyz"])[0].ids) == 6


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"), "it is WordPiece"),
        (models.Unigram([("a", 0.0)], 0), "it is Unigram"),
        (models.BPE({"a": 0}, []), "does not work on bytes"),
        (models.BPE({"a": 0}, [], end_of_word_suffix="</w>"), "end_of_word_suffix"),
    ],
)
def test_other_kinds_are_refused(model, reason):
    made = Tokenizer(model)
    if reason == "end_of_word_suffix":
        made.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    with pytest.raises(ConfigError, match=f"models/other.*byte-level BPE.*{reason}"):
        load_byte_bpe(tokenizer, "models/other")


def test_json_is_what_the_library_reads_back(tiny_bpe):
    grown = tiny_bpe.extend([("Z", "Z")])
    assert json.loads(grown.backend.to_str())["model"]["merges"][-1] == ["Z", "Z"]
