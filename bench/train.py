"""Training beside TRL and transformers: whole trainers, each in a process of its own, in turn.

Every side trains the same model from the same weights on the same rows with fused AdamW. In a round
each runs some steps while the others sleep; figures are medians over the rounds, ratios are taken
within a round. Between sides the rate of a matrix product is measured with as many threads, so
that useful FLOP/s (of tokens that are no padding, the output layer at trained tokens, attention at
pairs that see each other; three times the forward pass) have something to stand beside.

- ours: the stage as ``posttrain train`` runs it.
- ours-flat: DPO with the prompt computed once for each answer, as all others do.
- trl-best: packing (best fit), loss on the assistant alone, no gradient checkpointing; DPO with the
  reference's log-probabilities computed before, as ours are.
- trl-default: what its trainers do untold, but for the number format.
- transformers: its Trainer on padded rows of similar length.

On a CPU everything is fp32 (say so where bf16 has hardware), on a GPU bf16.

    python bench/train.py sft-tiny sft-small8 sft-lora dpo --threads 2 --json found.json
    python bench/train.py cuda-0.6b cuda-4b-lora cuda-dpo
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import trl
from train_cases import CASES, SHAPES, Case, make_model, make_rows

SIDES = Path(__file__).parent / "train_sides.py"
# glibc gives large blocks back to the system, and new ones are zeroed page by page; all keep them.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="of a round, instead of the case's own")
    parser.add_argument("--sides", nargs="+", help="instead of the case's own; ours first")
    parser.add_argument("--folder", type=Path, help="for models and rows, kept for the next time")
    parser.add_argument("--no-malloc", action="store_true", help="leave the allocator as it is")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


@contextlib.contextmanager
def started(side: str, told: dict[str, Any], options: argparse.Namespace, folder: Path) -> Iterator:
    """Start a side; it is ended where it leaves the block."""
    environment = {
        **os.environ,
        **({} if options.no_malloc else MALLOC),
        "OMP_NUM_THREADS": str(options.threads),
        "POSTTRAIN_CACHE": str(folder / "cache"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    log = folder / f"{side}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(SIDES), side, json.dumps(told)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def run_steps(side: tuple[Any, Path], steps: int) -> dict[str, Any]:
    process, log = side
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit(f"a side has ended; the end of {log}:\n{log.read_text()[-3000:]}")
    return json.loads(line)


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a case to its end."""
    case = CASES[name]
    model = folder / case.shape
    if not model.exists():
        template = Path(trl.__file__).parent / "chat_templates" / "qwen3_training.jinja"
        make_model(case.shape, model, template.read_text(encoding="utf-8"))
    rows = folder / f"{'pairs' if case.preference else 'chats'}-{options.rows}.jsonl"
    if not rows.exists():
        make_rows(case, options.rows, rows)
    told = {
        **asdict(case),
        "model": str(model),
        "rows": str(rows),
        "threads": options.threads,
        "learning_rate": 1e-4 if case.tuning == "lora" else 1e-5,
    }
    names = options.sides or case.sides
    steps = options.steps or case.steps
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in names}
    rates = []
    with contextlib.ExitStack() as stack:
        sides = {}
        for side in names:
            sides[side] = stack.enter_context(started(side, told, options, folder))
            run_steps(sides[side], 2)
        for _ in range(options.rounds):
            for side, process in sides.items():
                rates.append(product_rate(case.device, options.threads))
                rounds[side].append(run_steps(process, steps))
    return {"case": name, "settings": told, "steps": steps, "rounds": rounds, "rates": rates}


def product_rate(device: str, threads: int) -> float:
    """FLOP/s of a matrix product here and now, the median of some."""
    torch.set_num_threads(threads)
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a_XX = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(12):
        begun = time.perf_counter()
        _ = a_XX @ a_XX
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(seconds)


def useful_flops(case: Case, seen: dict[str, Any]) -> float:
    """Of the forward and backward passes of what was seen; frozen weights need no gradient."""
    shape = SHAPES[case.shape]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    layer = 2 * (2 * hidden * (queries + keys) + 3 * hidden * inner) * seen["tokens"]
    pairs = 4 * queries * seen["pairs"]
    head = 2 * hidden * shape["vocab_size"] * seen["scored"]
    passes = 2 if case.tuning == "lora" else 3
    return (
        passes * (shape["num_hidden_layers"] * layer + head)
        + 3 * shape["num_hidden_layers"] * pairs
    )


def show(found: dict[str, Any]) -> str:
    """One case as Markdown."""
    case, rounds = CASES[found["case"]], found["rounds"]
    unit = "examples" if case.preference else "tokens"
    first = next(iter(rounds))
    ours = rounds[first]
    rate = statistics.median(found["rates"])
    flops = [useful_flops(case, one) for one in ours]
    each = sum(flops) / sum(one[unit] / weigh(case, first) for one in ours)
    lines = [
        f"\n## {found['case']}\n",
        f"{found['steps']} steps a round, {found['settings']['tokens']:,} tokens a batch, "
        f"{len(ours)} rounds; products at {rate / 1e9:.0f} GFLOP/s",
        "",
        f"| side | {'pairs' if case.preference else 'tokens'}/s | ours is faster by | useful "
        "GFLOP/s | of the products' rate | peak MB | of ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for side, own in rounds.items():
        speeds = [one[unit] / weigh(case, side) / one["seconds"] for one in own]
        our_speeds = [one[unit] / weigh(case, first) / one["seconds"] for one in ours]
        ratios = [a / b for a, b in zip(our_speeds, speeds, strict=True)]
        speed, peak = statistics.median(speeds), max(one["peak_bytes"] for one in own)
        useful = speed * each
        our_peak = max(one["peak_bytes"] for one in ours)
        lines.append(
            f"| {side} | {speed:,.1f} | {statistics.median(ratios):.2f} "
            f"[{min(ratios):.2f}-{max(ratios):.2f}] | {useful / 1e9:,.0f} | {useful / rate:.0%} | "
            f"{peak / 1e6:,.0f} | {our_peak / peak:.2f} |"
        )
    return "\n".join(lines)


def weigh(case: Case, side: str) -> int:
    """How many of what was counted are one: of pairs, answers of a peer and roots of ours."""
    return {"ours": 1, "ours-flat": 3}.get(side, 2) if case.preference else 1


def main() -> None:
    options = parse()
    packages = {n: version(n) for n in ("torch", "transformers", "trl", "peft")}
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(
        f"{machine}, Python {platform.python_version()}, {packages}, {options.threads} threads, "
        f"allocator {'as it is' if options.no_malloc else MALLOC}"
    )
    found = []
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.cases:
            found.append(measure(name, options, folder))
            print(show(found[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "cases": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
