"""Tiny encoders with tokenizers of their own, made on the spot."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 130,
    "pad_token_id": 0,
}
MODERN = {"local_attention": 16, "global_attn_every_n_layers": 2, "cls_token_id": 1}
MODERN |= {"sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
KINDS = {
    "bert": (BertForMaskedLM, BertConfig, {}),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig, MODERN),
    "roberta": (RobertaForMaskedLM, RobertaConfig, {}),
}


def build_wordpiece(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a WordPiece vocabulary of the words of texts, and of their characters.

    Not learned: the library's trainer breaks ties another way in every process, and a test whose
    ids change cannot be told from one that fails now and then.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {
        word
        for text in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    characters = {character for word in words for character in word}
    pieces = sorted(words | characters | {f"##{character}" for character in characters})
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


def save_encoder(folder: Path, kind: str, texts: Iterable[str]) -> Path:
    """Write a random encoder with its tokenizer."""
    tokenizer = build_wordpiece(texts)
    model_class, config_class, changes = KINDS[kind]
    torch.manual_seed(0)
    config = config_class(**SHAPE, **changes, vocab_size=len(tokenizer))
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
