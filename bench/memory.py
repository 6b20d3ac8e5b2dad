"""Peak memory of training, measured in processes of their own, beside the estimate of `plan`.

    python bench/memory.py [--only NAME ...] [--threads 1]

Every case is a whole `posttrain train` of two steps on a model made on the spot; what is measured
is the largest resident memory of its process (`stage.json`), what is estimated the line of `plan`.
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

SHAPES = {
    "tiny": None,
    # Layers as Qwen3-0.6B has them, fewer of them, and two vocabularies.
    "wide": {"layers": 8, "hidden": 1024, "vocabulary": 8192},
    "wide-152k": {"layers": 8, "hidden": 1024, "vocabulary": 151_936},
}
_SMALL = {"batch_tokens": 2048}
CASES = {
    "sft tiny 2k": ("tiny", "sft", {}, _SMALL),
    "sft tiny 8k": ("tiny", "sft", {}, {"batch_tokens": 8192}),
    "sft tiny 8k checkpointing": (
        "tiny", "sft", {}, {"batch_tokens": 8192, "activation_checkpointing": True},
    ),
    "lora tiny 8k": ("tiny", "sft", {"tuning": "lora"}, {"batch_tokens": 8192}),
    "dpo tiny 4k": ("tiny", "dpo", {}, {"batch_tokens": 4096}),
    "reward tiny 4k": ("tiny", "reward", {}, {"batch_tokens": 4096}),
    "sft tiny 4k accumulate": ("tiny", "sft", {}, {"batch_tokens": 4096, "accumulate": 2}),
    "sft tiny 4k adafactor": ("tiny", "sft", {}, {"batch_tokens": 4096, "optimizer": "adafactor"}),
    "sft wide 2k": ("wide", "sft", {}, _SMALL),
    "sft wide 2k checkpointing": (
        "wide", "sft", {}, {**_SMALL, "activation_checkpointing": True},
    ),
    "qlora wide 2k": ("wide", "sft", {"tuning": "qlora"}, _SMALL),
    "sft wide-152k 2k": ("wide-152k", "sft", {}, _SMALL),
}  # fmt: skip


def build_model(shape: str, folder: Path) -> str:
    """Write a random model with the built-in tokenizer."""
    if SHAPES[shape] is None:
        return "tiny"
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from posttrain.models.tiny import ensure_tiny

    size = SHAPES[shape]
    place = folder / shape
    if not place.is_dir():
        tokenizer = AutoTokenizer.from_pretrained(ensure_tiny("tiny"))
        config = Qwen3Config(
            vocab_size=size["vocabulary"],
            hidden_size=size["hidden"],
            intermediate_size=3 * size["hidden"],
            num_hidden_layers=size["layers"],
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        Qwen3ForCausalLM(config).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return str(place)


def run(*arguments: str, folder: Path, threads: int) -> str:
    """Run a command of ours in a new process, and return what it shows."""
    done = subprocess.run(
        [sys.executable, "-m", "posttrain", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def compare(name: str, folder: Path, threads: int) -> tuple[float, float]:
    """Measure a case and estimate it, both MiB."""
    shape, kind, settings, stage = CASES[name]
    rows = "preference" if kind in ("dpo", "reward") else "math"
    recipe = {
        "name": re.sub(r"\W+", "-", name),
        "model": {"path": build_model(shape, folder)},
        "compute": {"threads": threads, "precision": "fp32", "device": "cpu"},
        **settings,
        "stages": [
            {"stage": "sample-data", "name": "rows", "kind": rows, "num": 600},
            {
                "stage": kind,
                "name": "train",
                "data": {"sources": [{"from_stage": "rows"}]},
                "steps": 2,
                **stage,
            },
        ],
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    run("train", "recipe.yaml", folder=folder, threads=threads)
    done = json.loads((folder / "runs" / recipe["name"] / "train" / "stage.json").read_text())
    said = run("plan", "recipe.yaml", folder=folder, threads=threads)
    parts = re.findall(r"(\d+\.?\d*) (B|KiB|MiB|GiB)", said.split("  memory ")[1].split(":")[1])
    units = {"B": 2**-20, "KiB": 2**-10, "MiB": 1, "GiB": 1024}
    estimate = sum(float(size) * units[unit] for size, unit in parts)
    return done["peak_memory_bytes"] / 2**20, estimate


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print("| case | measured MiB | estimated MiB | difference |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            measured, estimate = compare(name, Path(folder), options.threads)
            print(
                f"| {name} | {measured:,.0f} | {estimate:,.0f} | {estimate / measured - 1:+.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
