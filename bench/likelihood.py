"""Scoring of options beside lm-evaluation-harness: same model, questions and scores.

    python bench/likelihood.py ARC.jsonl MODEL --threads 2 --rounds 3 --shots 0 5

The questions are asked as plain text, behind as many solved ones as --shots says. lm-eval's `hf`
back end scores every option in a row of its own, at the batch size that suits it best; ours reads a
question once for all its options, and solved ones once for many questions. Log-probabilities of all
options must agree to 1e-4.
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain.config.model import ModelConfig
from posttrain.evaluation.scoring import score_trees
from posttrain.evaluation.tasks import load_task_model
from posttrain.layout import Segment
from posttrain.models.load import load_model, load_tokenizer

TOLERANCE = 1e-4
BATCHES = (4, 16, 32)
Scores = list[list[float]]
"""Of each option of each question, nats."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="rows of ARC")
    parser.add_argument("model", help="a folder, or a built-in name")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--batch-tokens", type=int, default=4096, help="of ours")
    return parser.parse_args()


def read_questions(path: Path, most: int) -> list[tuple[str, list[str], str]]:
    """Question as plain text, options, and the right one."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[:most]:
        row = json.loads(line)
        options = {c["label"]: c["text"] for c in row["question"]["choices"]}
        text = f"Question: {row['question']['stem']}\nAnswer:"
        found.append((text, list(options.values()), options[row["answerKey"]]))
    return found


def build_ours(
    questions: Sequence[tuple[str, list[str]]], model: Any, tokenizer: Any, batch_tokens: int
) -> Callable[[], Scores]:
    def encode(text: str) -> np.ndarray[Any, Any]:
        return np.array(tokenizer(text, add_special_tokens=False)["input_ids"])

    def score() -> Scores:
        trees = []
        for context, options in questions:
            root, *rest = (encode(text) for text in (context, *(f" {o}" for o in options)))
            children = [Segment(ids, np.ones(len(ids)), parent=0) for ids in rest]
            trees.append([Segment(root, np.zeros(len(root))), *children])
        found = dict(score_trees(model, trees, batch_tokens=batch_tokens))
        return [[float(part.sum()) for part in found[i][1:]] for i in range(len(trees))]

    return score


def build_lm_eval(
    questions: Sequence[tuple[str, list[str]]], model: Any, tokenizer: Any, batch_size: int
) -> Callable[[], Scores]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    judge = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=4096)
    requests = [
        Instance("loglikelihood", {}, (context, f" {option}"), number)
        for context, options in questions
        for number, option in enumerate(options)
    ]
    ends = np.cumsum([len(options) for _, options in questions])[:-1]

    def score() -> Scores:
        sums = [total for total, _ in judge.loglikelihood(requests, disable_tqdm=True)]
        return [part.tolist() for part in np.split(np.array(sums), ends)]

    return score


def timed(score: Callable[[], Scores]) -> tuple[float, Scores]:
    started = time.perf_counter()
    found = score()
    return time.perf_counter() - started, found


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    config = ModelConfig(path=options.model)
    tokenizer = load_tokenizer(config)
    ours = load_task_model(config, "score", dtype="float32", device="cpu")
    theirs = load_model(config, attention="sdpa", dtype="float32")
    everything = read_questions(options.data, options.questions)
    for shots in options.shots:
        solved = "".join(f"{text} {right}\n\n" for text, _, right in everything[-shots:] if shots)
        asked = everything[: len(everything) - shots]
        problems = [(solved + text, answers) for text, answers, _ in asked]
        score = build_ours(problems, ours, tokenizer, options.batch_tokens)
        sizes = {n: build_lm_eval(problems, theirs, tokenizer, n) for n in BATCHES}
        few = {n: build_lm_eval(problems[:24], theirs, tokenizer, n) for n in BATCHES}
        best = min(BATCHES, key=lambda n: timed(few[n])[0])
        spent: list[tuple[float, float]] = []
        for _ in range(options.rounds):
            mine, found = timed(score)
            other, expected = timed(sizes[best])
            spent.append((mine, other))
        apart = max(
            abs(a - b)
            for x, y in zip(found, expected, strict=True)
            for a, b in zip(x, y, strict=True)
        )
        ratios = [other / mine for mine, other in spent]
        ours_rate, their_rate = (
            len(problems) / statistics.median(s) for s in zip(*spent, strict=True)
        )
        print(
            f"{shots} shots, {len(problems)} questions: ours {ours_rate:,.1f} questions/s, lm-eval "
            f"{their_rate:,.1f} (batches of {best}); {statistics.median(ratios):.2f} times, rounds "
            f"{', '.join(f'{r:.2f}' for r in ratios)}; scores agree to {apart:.2g} nats; "
            f"{options.threads} threads, torch {torch.__version__}"
        )
        if apart > TOLERANCE:
            sys.exit("the scores differ")


if __name__ == "__main__":
    main()
