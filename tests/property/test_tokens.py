"""Fast encoders give the tokenizer's own ids: any text, any pieces, any merges."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.templates import Piece
from posttrain.data.tokens import build_codec
from posttrain.data.tokens.structure import PATTERNS
from tests.byte_level import build_byte_level

BOUNDED = settings(max_examples=60, deadline=None)
# Words, blanks and marks that patterns speak of, and anything else.
FRAGMENTS = st.sampled_from(
    ["'s", "'LL", "'", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "the", "12", "½", "...",
     "<|end|>", "<|start|>", "<|", "|>", "e\u0301", "\u0301", "ſ", "\u2028", "中文", "🙂", "\u200d"]
)  # fmt: skip
TEXTS = st.lists(FRAGMENTS | st.text(max_size=6), max_size=14).map("".join)
LETTERS = "abcd"
MERGES = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=14, unique=True
)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@cache
def fast(name, nfc):
    tokenizer = build_byte_level(None if name == "gpt2" else PATTERNS[name], nfc=nfc)
    codec = build_codec(tokenizer)
    assert codec.name == "tiktoken"
    return tokenizer, codec


@pytest.mark.parametrize(("name", "nfc"), [("qwen2", True), ("gpt2", False), ("o200k", True)])
def test_any_text_has_the_tokenizers_ids(name, nfc, cache_dir):
    tokenizer, codec = fast(name, nfc)

    @BOUNDED
    @given(TEXTS)
    def check(text):
        assert codec.encode(text) == ids(tokenizer, text)

    check()


def test_any_text_has_the_real_tokenizers_ids(shared_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "qwen3")
    codec = build_codec(tokenizer)

    @BOUNDED
    @given(TEXTS)
    def check(text):
        assert codec.encode(text) == ids(tokenizer, text)

    check()


def build_merges(numbers):
    """Turn pairs of numbers into pairs of tokens that exist by then."""
    tokens, merges = list(LETTERS), []
    for left, right in numbers:
        pair = (tokens[left % len(tokens)], tokens[right % len(tokens)])
        if pair not in merges and len("".join(pair)) < 12:
            merges.append(pair)
            tokens.append("".join(pair))
    return merges


@given(MERGES, st.lists(st.text(LETTERS, max_size=24), min_size=3, max_size=8), st.booleans())
@settings(max_examples=120, deadline=None)
def test_any_list_of_merges_gives_the_tokenizers_ids(numbers, words, ignore_merges):
    tokenizer = build_byte_level(
        PATTERNS["qwen2"], merges=build_merges(numbers), ignore_merges=ignore_merges
    )
    codec = build_codec(tokenizer)

    assert codec.name == "tiktoken" or "whole word" in codec.reason
    for word in words:
        assert codec.encode(word) == ids(tokenizer, word)


@given(st.lists(st.tuples(TEXTS, st.sampled_from([0, 0, 1, 0.5])), min_size=1, max_size=6))
@BOUNDED
def test_pieces_begin_with_their_prompt_and_lose_no_token(parts):
    tokenizer, codec = fast("qwen2", True)
    pieces = [Piece(text, weight) for text, weight in parts if text]
    if not pieces:
        return
    made = codec.encode_pieces(pieces)
    last = max(
        (i for i in range(1, len(pieces)) if pieces[i].weight and not pieces[i - 1].weight),
        default=0,
    )
    prompt = ids(tokenizer, "".join(piece.text for piece in pieces[:last]))

    assert made.token_ids[: len(prompt)].tolist() == prompt
    assert len(made.weights) == len(made.token_ids)
    whole = ids(tokenizer, "".join(piece.text for piece in pieces))
    assert made.retokenized == (whole[: len(prompt)] != prompt)
    if not made.retokenized:
        assert made.token_ids.tolist() == whole
