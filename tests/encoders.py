"""Tiny encoders with tokenizers of their own, made on the spot."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
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


def train_wordpiece(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn a small WordPiece vocabulary; texts are put between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=SPECIAL, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(texts, trainer)
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
    tokenizer = train_wordpiece(texts)
    model_class, config_class, changes = KINDS[kind]
    torch.manual_seed(0)
    config = config_class(**SHAPE, **changes, vocab_size=len(tokenizer))
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
