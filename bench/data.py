"""The data path beside TRL's: preparing, a warm start, packing; and memory at a million rows.

Each measurement of a side is a process of its own (``data_sides.py``), the sides in turn; figures
are medians over the rounds, ratios are taken within a round. Rows are made by ``chat_rows.py``.

- ``prepare``: ours from a JSONL file and an empty cache to the plan of all packed batches: digest
  of the file, parsing, checks, rendering, encoding, masks, audit, statistics, report, store. TRL:
  ``SFTTrainer._prepare_dataset`` on rows that are in memory already, ``assistant_only_loss``,
  ``packing`` (best fit), its caching off; 1 worker is ``dataset_num_proc=None``, which spares it
  the pool. Both: the same rows and template, 8,192 tokens a batch, as many processes, one thread
  each. Both get the template that TRL trains Qwen3 with, so that token ids can be compared row by
  row: the one that comes with the tokenizer has no marks of the answers, and TRL replaces it.
  ``--template stock`` leaves both what the tokenizer has.
  What ours finds out once about a tokenizer, and keeps for all data sets, is timed by itself. Core
  seconds are those of all processes of a side together; a busy machine changes them less.
- ``warm``: a fresh process, everything cached, from the end of the imports to the first batch.
- ``packing``: the plan for 100,000 lengths; TRL's ``pack_dataset`` packs rows of these lengths,
  which moves their tokens too.
- ``memory``: rows are generated to a file and prepared; memory of all processes, sampled.

    python bench/data.py prepare --tokenizer Qwen/Qwen3-0.6B
    python bench/data.py memory --rows 1000000 --tokenizer Qwen/Qwen3-0.6B --json memory.json
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import trl
from chat_rows import MEDIAN_TOKENS, generate_rows, write_rows
from data_tables import show_memory, show_packing, show_prepare, show_warm

SIDES = Path(__file__).parent / "data_sides.py"
SAMPLE_SECONDS = 0.2
SHOWN_DIFFERENCES = 5


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--tokenizer", help="folder or hub id; all parts but packing need it")
    parser.add_argument(
        "--template", default="qwen3_training", help="one of TRL's chat_templates, or `stock`"
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--memory-rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--median-tokens", type=int, default=MEDIAN_TOKENS)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for rows and caches; else a temporary one")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    if options.part != "packing" and not options.tokenizer:
        parser.error("--tokenizer is needed")
    return options


def bench_prepare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rounds of both sides in turn, for each number of workers."""
    rows = make_rows(options, folder, options.rows)
    known = folder / "known"
    shutil.rmtree(known, ignore_errors=True)
    learned = run_side("learn_ours", {**rows, "workers": 1}, folder, cache=known)
    result: dict[str, Any] = {"rows": options.rows, "template": options.template}
    result |= {"learned": learned, "workers": {}}
    for workers in options.workers:
        sides = {"ours": "prepare_ours", "encode": "encode_ours", "peer": "prepare_peer"}
        taken: dict[str, list[dict]] = {side: [] for side in sides}
        for number in range(options.rounds):
            for side, done in taken.items():
                keep = str(folder / f"{side}.npz") if number == 0 else ""
                wanted = {**rows, "workers": workers, "keep": keep}
                done.append(run_side(sides[side], wanted, folder, known=known))
        ours, encode, peer = ([options.rows / one["seconds"] for one in taken[s]] for s in taken)
        cores = [[one["core_seconds"] for one in taken[side]] for side in ("ours", "peer")]
        result["workers"][workers] = {
            "ours": summary(ours),
            "encode": summary(encode),
            "peer": summary(peer),
            "encode_ratio": summary([a / b for a, b in zip(encode, peer, strict=True)]),
            "ratio": summary([a / b for a, b in zip(ours, peer, strict=True)]),
            "core_ratio": summary([b / a for a, b in zip(*cores, strict=True)]),
            "plan_seconds": statistics.median(one["plan_seconds"] for one in taken["ours"]),
            "last": {side: done[-1] for side, done in taken.items()},
            "equality": compare_examples(options, folder),
        }
    return result


def compare_examples(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare ids and masks of every row that both sides have."""
    ours, peer = (dict(np.load(folder / f"{side}.npz")) for side in ("ours", "peer"))
    places = {int(line): number for number, line in enumerate(peer["lines"])}
    starts = {id(s): np.concatenate([[0], np.cumsum(s["lengths"])]) for s in (ours, peer)}

    def row(side: dict[str, Any], number: int, name: str) -> np.ndarray:
        start, end = starts[id(side)][number : number + 2]
        return side[name][start:end]

    compared = same_ids = same_masks = 0
    different: list[int] = []
    mask_tokens: Counter[tuple[int, str]] = Counter()
    for number, line in enumerate(ours["lines"].tolist()):
        if line not in places:
            continue
        compared += 1
        a, b = row(ours, number, "ids"), row(peer, places[line], "ids")
        if not np.array_equal(a, b):
            different.append(line)
            continue
        same_ids += 1
        ours_mask, peer_mask = row(ours, number, "trained"), row(peer, places[line], "trained")
        same_masks += bool(np.array_equal(ours_mask, peer_mask))
        for place in np.flatnonzero(ours_mask != peer_mask).tolist():
            mask_tokens[int(a[place]), "ours" if ours_mask[place] else "peer"] += 1
    return {
        "compared": compared,
        "only_ours": len(ours["lines"]) - compared,
        "only_peer": len(peer["lines"]) - compared,
        "same_ids": same_ids,
        "first_different_lines": different[:SHOWN_DIFFERENCES],
        "same_masks": same_masks,
        "tokens_that_one_side_alone_trains": name_tokens(options.tokenizer, mask_tokens),
    }


def name_tokens(tokenizer: str, counted: Counter[tuple[int, str]]) -> list[Any]:
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(tokenizer) if counted else None
    shown = counted.most_common(SHOWN_DIFFERENCES)
    return [[known.decode([token]), side, count] for (token, side), count in shown]


def bench_warm(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """First starts fill the caches, the next ones are timed."""
    rows = make_rows(options, folder, options.rows)
    caches = {side: folder / f"warm-{side}" for side in ("ours", "peer")}
    taken: dict[str, list[dict]] = {"ours": [], "peer": []}
    for number in range(options.rounds + 1):
        for side, done in taken.items():
            wanted = {**rows, "workers": 1, "folder": str(caches[side])}
            found = run_side(f"warm_{side}", wanted, folder, cache=caches[side])
            if number:
                done.append(found)
    assert all(one["reused"] for one in taken["ours"])
    parts = {
        side: {k: statistics.median(one[k] for one in done) for k in done[0] if k != "reused"}
        for side, done in taken.items()
    }
    seconds = {side: summary([one["seconds"] for one in done]) for side, done in taken.items()}
    return {"rows": options.rows, "seconds": seconds, "parts": parts}


def bench_packing(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides pack the same lengths."""
    wanted = {"count": 100_000, "rounds": options.rounds}
    found = run_side("pack_both", wanted, folder)
    seconds = {side: summary(times) for side, times in found.pop("rounds").items()}
    return {**wanted, "seconds": seconds, **found}


def bench_memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Prepare more and more rows; memory must not grow with them."""
    runs = []
    for count in options.memory_rows:
        rows = make_rows(options, folder, count)
        for workers in options.workers:
            runs.append(measure_memory({**rows, "workers": workers, "wait": True}, folder, count))
        Path(rows["rows"]).unlink()
    return {"median_tokens_asked": options.median_tokens, "runs": runs}


def measure_memory(wanted: dict[str, Any], folder: Path, count: int) -> dict[str, Any]:
    """Run our side and sample it: resident memory of the parent, and of all, shared pages once."""
    with started("prepare_ours", wanted, folder) as process:
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None, "the side has ended before its work began"
        before = read_memory(process.pid)
        process.stdin.write("go\n")
        process.stdin.flush()
        peak = dict(before)
        while process.poll() is None:
            for name, value in read_memory(process.pid).items():
                peak[name] = max(peak[name], value)
            time.sleep(SAMPLE_SECONDS)
        found = json.loads(process.stdout.read().strip().splitlines()[-1])
    return {
        "rows": count,
        "workers": wanted["workers"],
        "rows_per_second": count / found["seconds"],
        "mean_tokens": found["mean_tokens"],
        "before_bytes": before,
        "peak_bytes": peak,
        "side": found,
    }


def read_memory(pid: int) -> dict[str, int]:
    """Resident bytes of a process (its own peak, and without mapped files) and of its family."""
    parent = read_fields(Path(f"/proc/{pid}/status"))
    family = {"pss": 0, "rss": 0, "processes": 0}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            fields = read_fields(Path(f"/proc/{process.pid}/smaps_rollup"))
            family["pss"] += fields.get("Pss", 0)
            family["rss"] += fields.get("Rss", 0)
            family["processes"] += 1
    return {
        "parent_rss": parent.get("VmRSS", 0),
        "parent_peak_rss": parent.get("VmHWM", 0),
        "parent_without_files": parent.get("RssAnon", 0),
        **{f"family_{name}": value for name, value in family.items()},
    }


def read_fields(path: Path) -> dict[str, int]:
    """Read the entries of a file of /proc that are in kB, as bytes; none where it has gone."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}


def make_rows(options: argparse.Namespace, folder: Path, count: int) -> dict[str, Any]:
    """Write the rows and the template; returns what each side is told."""
    path = folder / f"rows-{count}-{options.median_tokens}.jsonl"
    if not path.exists():
        write_rows(path, generate_rows(count, 0, options.median_tokens))
    template = None
    if options.template != "stock":
        template = Path(trl.__file__).parent / "chat_templates" / f"{options.template}.jinja"
    return {
        "rows": str(path),
        "tokenizer": options.tokenizer,
        "template": template and str(template),
        "folder": str(folder / "peer"),
    }


def run_side(
    side: str,
    wanted: dict[str, Any],
    folder: Path,
    *,
    cache: Path | None = None,
    known: Path | None = None,
) -> dict[str, Any]:
    """Run one side to its end.

    Args:
        side: Its name.
        wanted: What it is told.
        folder: For its files.
        cache: Its cache, which stays; else an empty one.
        known: Cache from which an empty one gets what is known of the tokenizer.
    """
    with started(side, wanted, folder, cache, known) as process:
        output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{side} has failed with {process.returncode}")
    return json.loads(output.strip().splitlines()[-1])


@contextlib.contextmanager
def started(
    side: str,
    wanted: dict[str, Any],
    folder: Path,
    cache: Path | None = None,
    known: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Start a side; it is killed and its cache removed where it leaves the block."""
    own = Path(tempfile.mkdtemp(dir=folder)) if cache is None else cache
    if known:
        shutil.copytree(known, own, dirs_exist_ok=True)
    environment = {
        **os.environ,
        "POSTTRAIN_CACHE": str(own),
        "HF_DATASETS_CACHE": str(own / "datasets"),
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }
    process = subprocess.Popen(
        [sys.executable, str(SIDES), side, json.dumps(wanted)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if cache is None:
            shutil.rmtree(own)


def summary(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "rounds": values,
    }


PARTS = {
    "prepare": (bench_prepare, show_prepare),
    "warm": (bench_warm, show_warm),
    "packing": (bench_packing, show_packing),
    "memory": (bench_memory, show_memory),
}


def main() -> None:
    options = parse()
    packages = {
        n: version(n) for n in ("trl", "datasets", "transformers", "tokenizers", "tiktoken")
    }
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, Python {platform.python_version()}, {packages}, {options.rounds} rounds")
    found: dict[str, Any] = {"machine": machine, "packages": packages, "parts": {}}
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for name, (measure, show) in PARTS.items():
            if options.part in (name, "all"):
                found["parts"][name] = measure(options, folder)
                print(f"\n## {name}\n\n{show(found['parts'][name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
