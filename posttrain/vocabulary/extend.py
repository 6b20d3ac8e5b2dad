"""A model with more tokens: learn or read them, merge, grow the model, prove, publish."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.checkpoints import write_manifest
from posttrain.config.model import ModelConfig
from posttrain.config.vocabulary import VocabularyConfig
from posttrain.errors import CheckpointError, DataError
from posttrain.files import publish_folder, write_json, write_jsonl
from posttrain.logs import say
from posttrain.models.load import find_model, load_model, load_model_config, load_tokenizer
from posttrain.models.rows import VOCABULARY_REPORT
from posttrain.models.trained_template import find_trained_template, write_trained_template
from posttrain.vocabulary.bpe import ByteBpe, load_byte_bpe, save_tokenizer, to_text
from posttrain.vocabulary.learn import count_uses, learn_tokens
from posttrain.vocabulary.proof import (
    check_logits,
    check_tokenizer,
    choose_examples,
    compute_logits,
    measure_text,
)
from posttrain.vocabulary.resize import grow_model
from posttrain.vocabulary.texts import Texts, read_domain, settled_path
from posttrain.vocabulary.wanted import merge_wanted

REPORT = VOCABULARY_REPORT


@dataclass(frozen=True)
class _Growth:
    """The extended tokenizer, how its tokens are used, and where they are from."""

    bpe: ByteBpe
    uses: dict[str, int]
    origin: dict[str, Any]


def check_model(model: ModelConfig) -> tuple[Any, ByteBpe, str]:
    """Look whether a model's vocabulary can be extended.

    Returns:
        Its tokenizer, the tokenizer as byte-level BPE, and the number format of its weights.

    Raises:
        CheckpointError: The model is missing, an adapter, or quantized.
        ConfigError: The tokenizer is no byte-level BPE.
    """
    if (Path(find_model(model.path)) / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{model.path}: is an adapter, and new tokens need rows in the model itself",
            hint="merge it first (posttrain merge), or extend the model that it belongs to",
        )
    config = load_model_config(model)
    if getattr(config, "quantization_config", None):
        raise CheckpointError(
            f"{model.path}: is quantized, and its rows cannot grow",
            hint="extend the model it was made from, then quantize",
        )
    tokenizer = load_tokenizer(model)
    bpe = load_byte_bpe(tokenizer, model.tokenizer or model.path)
    return tokenizer, bpe, str(config.dtype or "float32").removeprefix("torch.")


def extend_tokenizer(config: VocabularyConfig, model: ModelConfig, out: Path) -> dict[str, Any]:
    """Extend a model's vocabulary and publish both in one folder.

    Args:
        config: Which tokens.
        model: The model to extend.
        out: Folder to write: weights, tokenizer, ``vocabulary.json``, manifest.

    Returns:
        The report, as in ``vocabulary.json``.

    Raises:
        ConfigError, CheckpointError, DataError: Model, tokenizer or texts cannot be used.
        VerificationError: A proof fails; nothing is published.
    """
    tokenizer, base, dtype = check_model(model)
    texts = read_domain(config)
    growth = _find_tokens(base, texts, config)
    say(f"{len(growth.bpe.added):,} new tokens, from id {growth.bpe.first_new_id:,} on")
    with publish_folder(out) as folder:
        save_tokenizer(tokenizer, growth.bpe, folder)
        extended = load_tokenizer(model.model_copy(update={"tokenizer": str(folder)}))
        everything = [*texts.learned, *texts.held_out, *texts.control]
        trips = check_tokenizer(tokenizer, extended, growth.bpe, everything)
        say(f"proved: {trips['texts']:,} texts keep their encoding but for joined tokens")
        examples = choose_examples(tokenizer, texts.measured)
        rows, gap = _grow_and_prove(model, growth.bpe, examples, folder, config, dtype)
        report = {
            "model": model.path,
            "base_tokens": len(base.base_ids),
            "new_tokens": len(growth.bpe.added),
            "first_new_id": growth.bpe.first_new_id,
            **growth.origin,
            **rows,
            "dtype": dtype,
            "measured_on": "held-out texts" if texts.held_out else "the texts themselves",
            "domain": measure_text(tokenizer, extended, texts.measured),
            "control": measure_text(tokenizer, extended, texts.control),
            "rejected_rows": len(texts.rejects),
            "proofs": {**trips, "logit_gap": gap},
            "tokens": list_tokens(growth.bpe, growth.uses),
        }
        write_json(folder / REPORT, report)
        write_trained_template(folder, find_trained_template(model.path))
        if texts.rejects:
            write_jsonl(folder / "rejects.jsonl", texts.rejects)
        write_manifest(folder, {"kind": "extended vocabulary", "parent_model": model.path})
    return report


def _find_tokens(base: ByteBpe, texts: Texts, config: VocabularyConfig) -> _Growth:
    if config.tokens_file is not None:
        merged = merge_wanted(base, settled_path(config.tokens_file))
        for line in merged.refused[:5]:
            say(f"{line['file']}:{line['line']}: {line['token']!r} left out: {line['reason']}")
        if len(merged.refused) > 5:
            say(f"... and {len(merged.refused) - 5} more; all are in {REPORT}")
        origin = {
            "source": "list", "wanted": len(merged.wanted), "refused": list(merged.refused)
        }  # fmt: skip
        return _Growth(merged.bpe, count_uses(merged.bpe, texts.learned), origin)
    learned = learn_tokens(
        base,
        texts.learned,
        new_tokens=config.new_tokens,
        min_frequency=config.min_frequency,
        max_characters=config.max_characters,
    )
    if not learned.bpe.added:
        raise DataError(
            f"no new token saves {config.min_frequency} tokens in {len(texts.learned):,} documents",
            hint="give more text, or lower min_frequency",
        )
    return _Growth(
        learned.bpe, learned.uses, {"source": "learned", "candidates": learned.candidates}
    )


def _grow_and_prove(
    model: ModelConfig,
    bpe: ByteBpe,
    examples: list[list[int]],
    folder: Path,
    config: VocabularyConfig,
    dtype: str,
) -> tuple[dict[str, Any], float]:
    """Save the grown model in its own number format; compare what was saved with the source."""
    import torch

    # fp32 holds every bf16 and fp16 number exactly: saving in the old format changes no old row.
    network = load_model(model, attention="sdpa", dtype="float32")
    before = compute_logits(network, examples)
    rows = grow_model(network, bpe, row_multiple=config.row_multiple)
    network.to(getattr(torch, dtype)).save_pretrained(folder)
    del network
    published = model.model_copy(update={"path": str(folder), "revision": None})
    after = compute_logits(load_model(published, attention="sdpa", dtype="float32"), examples)
    gap = check_logits(before, after, bpe)
    say(f"proved: logits of old tokens agree to {gap:.1e}")
    return rows, gap


def list_tokens(bpe: ByteBpe, uses: dict[str, int]) -> list[dict[str, Any]]:
    """List every new token with its id, its old pieces, and the tokens it saves in the texts."""
    names = {id_: token for token, id_ in bpe.base_ids.items()}
    pieces = bpe.expand()
    return [
        {
            "id": id_,
            "text": to_text(token),
            "token": token,
            "pieces": [to_text(names[piece]) or names[piece] for piece in pieces[id_]],
            "saves": uses.get(token, 0),
        }
        for token, id_ in bpe.new_ids.items()
    ]
