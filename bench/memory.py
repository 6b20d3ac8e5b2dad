"""Peak memory of training, measured in processes of their own, beside the estimate of `plan`.

    python bench/memory.py [--only NAME ...] [--threads 1]

Every case is a whole `posttrain train` of two steps on a model made on the spot; what is measured
is the largest resident memory of its process (`stage.json`), what is estimated the lines of `plan`.
The case `process` trains next to nothing: what it measures is the program itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Layers as Qwen3-0.6B has them, fewer of them, and two vocabularies.
_WIDE = {"layers": 8, "hidden": 1024, "intermediate": 3072, "heads": 16, "size": 128}
SHAPES: dict[str, dict[str, int]] = {
    "least": {"layers": 1, "hidden": 16, "intermediate": 16, "heads": 2, "size": 8},
    "wide": _WIDE,
    "wide-152k": {**_WIDE, "vocabulary": 151_936},
}
# Model, kind of stage, its settings, and the recipe's.
Case = tuple[str, str, dict[str, Any], dict[str, Any]]
_CHECKPOINTING = {"activation_checkpointing": True}
_ONLINE = {
    "steps": None,
    "rollouts": 2,
    "prompts_per_rollout": 16,
    "max_new_tokens": 96,
    "batch_tokens": 8192,
    "rewards": {"answer": 1.0, "format": 0.5},
    "learning_rate": 1e-4,
}
CASES: dict[str, Case] = {
    "process": ("least", "sft", {"batch_tokens": 512}, {}),
    "sft tiny 2k": ("tiny", "sft", {"batch_tokens": 2048}, {}),
    "sft tiny 8k": ("tiny", "sft", {"batch_tokens": 8192}, {}),
    "sft tiny 8k, checkpointing": ("tiny", "sft", {"batch_tokens": 8192, **_CHECKPOINTING}, {}),
    "sft tiny 4k, accumulated": ("tiny", "sft", {"batch_tokens": 4096, "accumulate": 2}, {}),
    "sft tiny 4k, adafactor": ("tiny", "sft", {"batch_tokens": 4096, "optimizer": "adafactor"}, {}),
    "pretrain tiny 8k": ("tiny", "pretrain", {"batch_tokens": 8192}, {}),
    "mlm BERT 8k": ("encoder", "mlm", {"batch_tokens": 8192}, {}),
    "reward tiny 8k": ("tiny", "reward", {"batch_tokens": 8192}, {}),
    "dpo tiny 8k": ("tiny", "dpo", {"batch_tokens": 8192}, {}),
    "grpo tiny 8k": ("tiny", "grpo", {**_ONLINE, "completions": 8, "kl_weight": 0.01}, {}),
    "ppo tiny 8k": ("tiny", "ppo", {**_ONLINE, "completions": 4}, {}),
    "lora tiny 8k": ("tiny", "sft", {"batch_tokens": 8192}, {"tuning": "lora"}),
    "lora wide 2k": ("wide", "sft", {"batch_tokens": 2048}, {"tuning": "lora"}),
    "qlora wide 2k": ("wide", "sft", {"batch_tokens": 2048}, {"tuning": "qlora"}),
    "sft wide 2k": ("wide", "sft", {"batch_tokens": 2048}, {}),
    "sft wide 2k, checkpointing": ("wide", "sft", {"batch_tokens": 2048, **_CHECKPOINTING}, {}),
    "sft wide-152k 2k": ("wide-152k", "sft", {"batch_tokens": 2048}, {}),
}
_UNITS = {"B": 2**-20, "KiB": 2**-10, "MiB": 1.0, "GiB": 1024.0, "TiB": 2.0**20}


def build_model(shape: str, folder: Path) -> str:
    """Write a random model with the built-in tokenizer, and name it."""
    if shape == "tiny":
        return shape
    place = folder / shape
    if not place.is_dir():
        _save_encoder(place) if shape == "encoder" else _save_decoder(place, **SHAPES[shape])
    return str(place)


def _save_decoder(
    place: Path,
    *,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    size: int,
    vocabulary: int = 8192,
) -> None:
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from posttrain.models.tiny import ensure_tiny

    tokenizer = AutoTokenizer.from_pretrained(ensure_tiny("tiny"))
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=size,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)


def _save_encoder(place: Path) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

    from posttrain.models.tiny import ensure_tiny

    tokenizer = AutoTokenizer.from_pretrained(ensure_tiny("tiny"))
    tokenizer.add_special_tokens(
        {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertForMaskedLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)


def build_recipe(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Write out a case as a recipe."""
    shape, kind, stage, settings = CASES[name]
    rows = {"dpo": "preference", "reward": "preference", "pretrain": "text", "mlm": "text"}
    data: dict[str, Any] = {"sources": [{"from_stage": "rows"}]}
    if kind == "mlm":
        data["block_tokens"] = 512
    # A model that never answers right has nothing to learn from.
    before = {
        "stage": "sft", "name": "before", "data": data, "steps": 30, "batch_tokens": 2048,
        "learning_rate": 4e-3,
    }  # fmt: skip
    filled = {"stage": kind, "name": "train", "data": data, "steps": 2, **stage}
    return {
        "name": re.sub(r"\W+", "-", name.lower()),
        "output": str(folder / "runs"),
        "model": {"path": build_model(shape, folder)},
        "compute": {"threads": threads, "precision": "fp32", "device": "cpu"},
        **settings,
        "stages": [
            {"stage": "sample-data", "name": "rows", "kind": rows.get(kind, "math"), "num": 600},
            *([before] if kind in ("grpo", "ppo") else []),
            {key: value for key, value in filled.items() if value is not None},
        ],
    }


def train(path: Path, threads: int) -> None:
    """Train a recipe in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "posttrain", "train", path.name],
        cwd=path.parent,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def read_sizes(said: str, line: str) -> dict[str, float]:
    """Read a line of `plan`: MiB by name, and the sum that it says as `about`."""
    found = ["", *re.findall(rf"^  {line} +(.*)$", said, re.MULTILINE)][-1]  # of the last stage
    parts = re.findall(r"(\w+) (\d[\d,.]*) ([KMGT]?i?B)\b", f"{line} {found}")
    return {name: float(size.replace(",", "")) * _UNITS[unit] for name, size, unit in parts}


def compare(name: str, folder: Path, threads: int) -> tuple[float, float, dict[str, float]]:
    """Measure a case and estimate it, both MiB; with the parts of the estimate."""
    from posttrain.config.load import load_recipe
    from posttrain.runs.plan import plan_recipe

    recipe = build_recipe(name, folder, threads)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    train(path, threads)
    done = json.loads((folder / "runs" / recipe["name"] / "train" / "stage.json").read_text())
    said = plan_recipe(load_recipe(path, []))
    parts = read_sizes(said, "memory")
    step, writing, reference = (
        sum(parts.values()) - parts["about"],
        read_sizes(said, "writing").get("about", 0.0),
        read_sizes(said, "reference").get("reference", 0.0),
    )
    return done["peak_memory_bytes"] / 2**20, max(step, writing) + reference, parts


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", action="store_true", help="show what the estimate is made of")
    options = parser.parse_args()
    print("| case | estimate MiB | measured MiB | error |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("POSTTRAIN_CACHE", str(Path(folder) / "cache"))
        for name in options.only:
            measured, estimate, parts = compare(name, Path(folder), options.threads)
            error = estimate / measured - 1
            shown = f" {json.dumps(parts)}" if options.parts else ""
            print(
                f"| {name} | {estimate:,.0f} | {measured:,.0f} | {error:+.1%} |{shown}", flush=True
            )


if __name__ == "__main__":
    main()
