"""What saving costs a run: a real run of a small model that saves, and the parts of one save.

    python bench/checkpoints.py
    python bench/checkpoints.py --batch-tokens 8192 --every 100 --steps 300 --threads 4

Steps and saves are timed within one run, so that what else the machine does falls on both: the
share is the time inside of saves by the time inside of steps. The model has 6 layers of 256 and a
vocabulary of 8,192, and nothing is validated.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from posttrain.checkpoints import write_manifest
from posttrain.config.load import build_recipe
from posttrain.files import load_jsonl, sync_folder
from posttrain.logs import format_bytes
from posttrain.models.tiny import ensure_tiny
from posttrain.runtime import Compute
from posttrain.samples.math import generate_math
from posttrain.training.sft import train_sft
from posttrain.training.stage import TrainingJob


def make_model(folder: Path) -> None:
    """Write the model with the built-in tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ensure_tiny("tiny"))
    config = Qwen3Config(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(options: argparse.Namespace, root: Path) -> tuple[float, float, Path]:
    """Train; returns seconds inside of steps, seconds inside of saves, and the last checkpoint."""
    make_model(root / "model")
    rows = root / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in generate_math(4000, seed=1)))
    stage = {
        "stage": "sft",
        "data": {"sources": [{"path": str(rows)}]},
        "steps": options.steps,
        "batch_tokens": options.batch_tokens,
        "save_every_steps": options.every,
        "log_every_steps": options.every,
    }
    values = {"name": "bench", "model": {"path": str(root / "model")}, "stages": [stage]}
    recipe = build_recipe(values, [], "bench")
    compute = Compute("cpu", "fp32", options.threads, "as asked")
    compute.apply()
    train_sft(TrainingJob(recipe, recipe.stages[0], root / "sft", compute, ""))
    # The last line is written before the last save: the saves before it are what counts.
    last = load_jsonl(root / "sft/metrics.jsonl")[-1]
    saved = (options.steps - 1) // options.every
    each = (last["seconds"] - last["step_seconds"]) / max(saved, 1)
    return last["step_seconds"] / options.steps, each, root / "sft/checkpoints/last"


def measure_parts(folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of digests and of flushing, on fresh copies of a checkpoint's files."""
    contents = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    found: dict[str, list[float]] = {"writing": [], "sha256": [], "fsync": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            started = time.perf_counter()
            for name, content in contents.items():
                (Path(place) / name).write_bytes(content)
            written = time.perf_counter()
            write_manifest(Path(place), {})
            digested = time.perf_counter()
            sync_folder(Path(place))
            found["writing"].append(written - started)
            found["sha256"].append(digested - written)
            found["fsync"].append(time.perf_counter() - digested)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one if absent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        step, save, last = run(options, Path(place))
        size = sum(p.stat().st_size for p in last.iterdir())
        parts = measure_parts(last.resolve(), 5)
    share = save / (options.every * step)
    said = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in parts.items())
    print(
        f"{options.threads} threads, {options.batch_tokens:,} tokens a step, a checkpoint of "
        f"{format_bytes(size)}\n"
        f"step {step * 1000:.1f} ms, save {save * 1000:.1f} ms (by itself: {said} ms)\n"
        f"one save every {options.every} steps: {share:.2%} of the time for steps"
    )


if __name__ == "__main__":
    main()
