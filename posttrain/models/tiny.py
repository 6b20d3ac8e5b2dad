"""The built-in model: a real Qwen3 of about 2 M parameters, made on the spot, offline.

``tiny`` has a small byte-level BPE vocabulary learned from our own sample data, digits single;
``tiny-wide`` is the same network with as many output rows as Qwen3 has, for tests of memory and
speed. Both start from random weights: the model knows nothing until it is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock

from posttrain.files import cache_root, digest_file, digest_json, publish_folder, write_errors
from posttrain.logs import quiet_libraries
from posttrain.samples import math, math_templates

BUILT_IN = ("tiny", "tiny-wide")
END_OF_TURN, PAD, START_OF_TURN = "<|im_end|>", "<|endoftext|>", "<|im_start|>"
VOCABULARY = 1536
QWEN3_VOCABULARY = 151_936
MAX_POSITIONS = 4096
_CORPUS_ROWS = 4000

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- (message.content or '') + '<|im_end|>' }}{%- endgeneration %}
{%- else %}
{{- message.content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "max_position_embeddings": MAX_POSITIONS,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
}


def ensure_tiny(name: str) -> Path:
    """Make a built-in model, or find it made.

    Args:
        name: ``tiny`` or ``tiny-wide``.

    Returns:
        A model folder as transformers saves one: weights, config, tokenizer, chat template.
    """
    import transformers

    corpus = [digest_file(Path(module.__file__ or "")) for module in (math, math_templates)]
    settings = [_SHAPE, VOCABULARY, CHAT_TEMPLATE, _CORPUS_ROWS, corpus, transformers.__version__]
    folder = cache_root() / "models" / f"{name}-{digest_json(settings)[:12]}"
    with write_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            with publish_folder(folder) as building:
                _build_tiny(name, building)
    return folder


def _build_tiny(name: str, folder: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    quiet_libraries()

    tokenizer = train_tokenizer()
    config = Qwen3Config(
        **_SHAPE,
        vocab_size=QWEN3_VOCABULARY if name == "tiny-wide" else len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer() -> Any:
    """Learn the byte-level BPE vocabulary from our own sample problems.

    Returns:
        A fast tokenizer with the ChatML template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Every digit by itself; anything else may merge, across words too: common phrases become
    # single tokens, and a problem has half as many of them.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START_OF_TURN, END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = math.generate_math(_CORPUS_ROWS, seed=0)
    texts = (text for row in rows for text in ("user\n", "assistant\n", *_texts(row)))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[START_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def _texts(row: dict[str, str]) -> tuple[str, str]:
    return row["question"], row["answer"]
