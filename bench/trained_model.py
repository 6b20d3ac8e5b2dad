"""A small model trained on word problems until its answers end where theirs do.

Random weights end no answer, or all alike.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from word_problems import make_problems

from posttrain.models.tiny import CHAT_TEMPLATE, END_OF_TURN, PAD, START_OF_TURN

VOCABULARY = 4096
RECIPE = """\
name: trained
model: {{path: {untrained}}}
seed: 0
stages:
  - stage: sft
    data:
      sources: [{{path: {rows}}}]
      max_tokens: 1024
    steps: {steps}
    batch_tokens: 4096
    learning_rate: 2e-3
    save_every_steps: {steps}
"""


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Learn a byte-level vocabulary of at most 4,096 tokens, digits single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START_OF_TURN, END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[START_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def ensure_trained(folder: Path, *, steps: int, threads: int) -> Path:
    """Train the model, or find it trained.

    Args:
        folder: For everything.
        steps: Of about 4,096 tokens.
        threads: CPU threads.

    Returns:
        The model's folder.
    """
    found = folder / "runs" / "trained" / "sft" / "final"
    if found.is_dir():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    problems = make_problems(20_000, seed=1)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in problems), encoding="utf-8")
    tokenizer = build_tokenizer([row[k] for row in problems[:4000] for k in row])
    config = Qwen3Config(
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    untrained = folder / "untrained"
    model.save_pretrained(untrained)
    tokenizer.save_pretrained(untrained)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(untrained=untrained, rows=rows.resolve(), steps=steps))
    command = [sys.executable, "-m", "posttrain", "run", str(recipe), f"compute.threads={threads}"]
    subprocess.run(command, cwd=folder, check=True)
    return found
