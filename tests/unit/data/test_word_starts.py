"""Beginnings of words from ids alone are those that the tokenizer itself reports."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.data.tokens.structure import GPT2, LLAMA3, QWEN2
from posttrain.data.word_starts import WordStarts
from posttrain.errors import ConfigError
from tests.byte_level import CORPUS, build_byte_level
from tests.encoders import build_wordpiece

TEXTS = (
    *CORPUS,
    "don't you, Mr. O'Neil? 12,345.67 (really)!",
    "naïve café — 日本語です。 한국어 🙂🙂 x",
)


def build_sentencepiece():
    pieces = sorted({c for text in TEXTS for c in text.replace(" ", "▁")})
    words = {f"▁{word[:2]}" for text in TEXTS for word in text.split()}
    vocabulary = [("<unk>", 0.0), *((p, -5.0) for p in pieces), *((w, -3.0) for w in sorted(words))]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


BUILDERS = {
    "wordpiece": lambda: build_wordpiece(TEXTS),
    "sentencepiece": build_sentencepiece,
    "gpt2 built in": lambda: build_byte_level(None),
    "gpt2": lambda: build_byte_level(GPT2),
    "llama3": lambda: build_byte_level(LLAMA3),
    "qwen2": lambda: build_byte_level(QWEN2),
}


@pytest.fixture(scope="module", params=BUILDERS)
def tokenizer(request):
    return BUILDERS[request.param]()


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_starts_are_those_of_the_tokenizers_own_word_ids(tokenizer, number):
    encoded = tokenizer(TEXTS[number], add_special_tokens=False)
    own = np.array(encoded.word_ids())
    expected = np.diff(own, prepend=-1) != 0
    ids = np.array(encoded["input_ids"])
    found = WordStarts(tokenizer).find(ids)
    assert found.tolist() == expected.tolist()
    assert 1 < found.sum() <= len(ids)


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_stretch_that_begins_and_ends_anywhere(cut):
    """Blocks are cut between any two tokens, within a character too."""
    tokenizer = build_byte_level(GPT2)
    ids = np.array(tokenizer((TEXTS[-1] + TEXTS[1]) * 2)["input_ids"])
    assert len(ids) > 2 * cut + 8
    starts = WordStarts(tokenizer)
    whole, part = starts.find(ids), starts.find(ids[cut:-cut])
    assert part[0]
    assert part[4:].tolist() == whole[cut:-cut][4:].tolist()


def test_an_added_word_is_spelled_as_it_is():
    tokenizer = build_byte_level(GPT2)
    tokenizer.add_tokens(["é€"])
    ids = np.array(tokenizer("one é€ two")["input_ids"])
    found = WordStarts(tokenizer).find(ids)
    assert found[ids.tolist().index(tokenizer.convert_tokens_to_ids("é€"))]
    two = tokenizer(" two")["input_ids"]
    assert ids[-len(two) :].tolist() == two
    assert found[-len(two)]
    assert not found[len(found) - len(two) + 1 :].any()


def test_a_tokenizer_without_marks_of_words_is_refused():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ConfigError, match=r"where words begin .* set mask\.units=tokens"):
        WordStarts(tokenizer)
