"""What ``bench/train.py`` measures: models of known shapes with random weights, and rows for them.

Letters as in ``train.py``.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chat_rows import generate_rows, write_rows

VOCABULARY = 8192
_QWEN3 = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": VOCABULARY,
    },
    "small8": {
        **_QWEN3,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
    },
    "qwen3-0.6b": {
        **_QWEN3,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "qwen3-4b": {
        **_QWEN3,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
    },
}


@dataclass(frozen=True)
class Case:
    """One comparison."""

    shape: str
    sides: tuple[str, ...]
    """Ours first; ratios are to it."""
    tokens: int = 2048
    """In one of our batches, and in one pack of a peer's."""
    rows_a_batch: int = 8
    """Of peers that pad."""
    steps: int = 4
    """Of each side in a round."""
    tuning: str = "full"
    preference: bool = False
    device: str = "cpu"
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the recipe's stage."""


_SFT = ("ours", "trl-best", "trl-default", "transformers")
_DPO = ("ours", "ours-flat", "trl-best", "trl-default")
CASES = {
    "sft-tiny": Case("tiny", _SFT, steps=8),
    "sft-small8": Case("small8", ("ours", "trl-best", "transformers"), steps=1),
    "sft-lora": Case("tiny", ("ours", "trl-best", "transformers"), steps=8, tuning="lora"),
    "sft-lora-small8": Case("small8", ("ours", "trl-best"), steps=1, tuning="lora"),
    "dpo": Case("tiny", _DPO, tokens=4096, steps=3, preference=True),
    "cuda-0.6b": Case(
        "qwen3-0.6b", _SFT, tokens=16_384, rows_a_batch=32, steps=10, device="cuda"
    ),
    "cuda-4b-lora": Case(
        "qwen3-4b", ("ours", "trl-best"), tokens=8192, steps=10, tuning="lora", device="cuda"
    ),
    "cuda-dpo": Case(
        "qwen3-0.6b", _DPO, tokens=16_384, steps=10, preference=True, device="cuda"
    ),
}  # fmt: skip


def make_rows(case: Case, count: int, path: Path) -> None:
    """Write chats, or pairs: a prompt of 150 tokens in the mean and two answers of half as many."""
    if not case.preference:
        write_rows(path, generate_rows(count, seed=0))
        return
    chance = random.Random(0)
    prompts = (_texts(row)[0] for row in generate_rows(count, seed=1, median_tokens=420))
    answers = [_texts(row)[1] for row in generate_rows(2 * count, seed=2, median_tokens=110)]
    chance.shuffle(answers)
    with path.open("w", encoding="utf-8") as file:
        for i, prompt in enumerate(prompts):
            turns = {
                "prompt": [{"role": "user", "content": prompt}],
                "chosen": [{"role": "assistant", "content": answers[2 * i]}],
                "rejected": [{"role": "assistant", "content": answers[2 * i + 1]}],
            }
            file.write(json.dumps(turns, ensure_ascii=False) + "\n")


def _texts(row: dict[str, Any]) -> tuple[str, str]:
    """First question and first answer of a chat."""
    contents = {"user": "", "assistant": ""}
    for message in reversed(row["messages"]):
        if message["role"] in contents and message["content"]:
            contents[message["role"]] = message["content"]
    return contents["user"], contents["assistant"] or "Yes."


def make_model(shape: str, folder: Path, template: str) -> None:
    """Write a Qwen3 of a shape with random weights, and a tokenizer learned from the chats."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = learn_tokenizer(template)
    config = Qwen3Config(
        **SHAPES[shape],
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learn_tokenizer(template: str) -> Any:
    """Learn a byte-level BPE vocabulary from chats of another seed than those trained on."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = generate_rows(3000, seed=9)
    texts = (m["content"] for row in rows for m in row["messages"] if m.get("content"))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
