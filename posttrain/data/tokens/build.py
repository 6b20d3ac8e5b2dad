"""Choose the way a tokenizer's texts are encoded: the fastest that is proven to be its own."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakKeyDictionary

from posttrain.data.templates import SHIELD
from posttrain.data.tokens.agreement import versions
from posttrain.data.tokens.codec import Codec, SegmentCodec, WholeCodec
from posttrain.data.tokens.kept import keep, kept_path, take_kept
from posttrain.data.tokens.ranks import Ranks, rank_tokens
from posttrain.data.tokens.runs import FastRuns, StockRuns
from posttrain.data.tokens.structure import NotProven, Structure

# Part of every key of the cache: raise it whenever the verdict on the same tokenizer may change.
_VERSION = 3
# Reading a tokenizer's parts takes a moment; a server would take it for each request.
_stock_codecs: WeakKeyDictionary[Any, tuple[int, Codec]] = WeakKeyDictionary()
_PROBES = (
    "Hello, world!",
    "  two  spaces\n\n\tand\ttabs \r\n",
    "Ça naïve café e\u0301 ﬁ ſ K",
    "你好，世界。\u3000",
    "x² + 1/2 = 10,000 \\frac{1}{2}",
    "it's WE'LL i'M 'Re",
    "🙂👩\u200d👩\u200d👧 ١٢٣",
    "\n",
    " ",
    "a",
)


def build_codec(tokenizer: Any) -> Codec:
    """Build the fastest codec that gives the tokenizer's own ids.

    The first time with a tokenizer takes seconds; what is found out is kept in the cache.

    Args:
        tokenizer: Of transformers.

    Returns:
        A codec over tiktoken where every part of the tokenizer is one that is proven; else one
        over the tokenizer itself. ``reason`` says what stood in the way.
    """
    try:
        structure = Structure.read(tokenizer)
        structure.check_runs()
        runs = FastRuns(structure, _find_ranks(structure))
        return _try_out(SegmentCodec(tokenizer, structure, runs, "tiktoken", ""), tokenizer)
    except NotProven as reason:
        return stock_codec(tokenizer, str(reason))


def stock_codec(tokenizer: Any, reason: str = "") -> Codec:
    """Build a codec over the tokenizer itself, which is quickly made; for a few texts.

    Args:
        tokenizer: Of transformers.
        reason: Why it is not a faster one.
    """
    try:
        structure = Structure.read(tokenizer)
        structure.check_runs()
        runs = StockRuns(structure)
        return _try_out(SegmentCodec(tokenizer, structure, runs, "tokenizers", reason), tokenizer)
    except NotProven as other:
        return WholeCodec(tokenizer, reason or str(other))


def encode_rendered(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text that ``ChatRenderer`` has rendered, as training data has them.

    Raises:
        RowError: The tokenizer cannot be made to read a special token's text as text.
    """
    if SHIELD not in text:
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    kept = _stock_codecs.get(tokenizer)
    if kept is None or kept[0] != len(tokenizer):
        kept = _stock_codecs[tokenizer] = (len(tokenizer), stock_codec(tokenizer))
    return kept[1].encode(text)


def _find_ranks(structure: Structure) -> Ranks:
    """Rank the tokens, or take the ranks from the cache."""
    structure.find_pattern()
    structure.needs_nfc()
    digest = hashlib.sha256(structure.text.encode("utf-8", "surrogatepass"))
    digest.update(repr((_VERSION, sorted(versions().items()))).encode())
    path = kept_path(f"ranks-{digest.hexdigest()[:32]}")
    kept = take_kept(path)
    if kept is not None:
        if "reason" in kept:
            raise NotProven(kept["reason"])
        return Ranks(**kept)
    try:
        structure.check_model()
        ranks = rank_tokens(structure)
    except NotProven as reason:
        keep(path, {"reason": str(reason)})
        raise
    keep(path, vars(ranks))
    return ranks


def _try_out(codec: Codec, tokenizer: Any) -> Codec:
    """Compare a codec with its tokenizer on a few texts.

    Raises:
        NotProven: They differ; a tokenizer may do in Python what its parts do not show.
    """
    special = [token.content for token in tokenizer.added_tokens_decoder.values()][:64]
    marked = [f"{before} {token}{token}\n{before}" for token in special for before in ("", "é")]
    for text in (*_PROBES, *marked):
        if codec.encode(text) != list(tokenizer(text, add_special_tokens=False)["input_ids"]):
            raise NotProven("the tokenizer does more than its parts show")
    codec.take_samples()
    return codec
