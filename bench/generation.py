"""Writing answers beside lm-evaluation-harness and transformers: same model, prompts and answers.

    python bench/generation.py --folder KEPT --threads 2 --rounds 3

A model is trained on word problems in the shape of GSM8K first and kept in KEPT (trained_model.py,
word_problems.py); its answers end where it has learned to. All sides then write greedy answers in
fp32 to problems it has not seen, in turns, in one process:

- ours: in-flight batches, as `posttrain evaluate` writes.
- lm-eval: its `hf` back end's generate_until, batches of 32 that it sorts by length itself.
- generate_batch: transformers' continuous batching, for those who have time.

Useful tokens are those of ours; the others must give the same tokens. Where an answer parts, the
two tokens' logits are compared: rounding explains gaps below 1e-3. With --shots the prompts begin
with as many worked examples. With --one-by-one ours is held to transformers' generate, prompt by
prompt. With --model and --rows it is another model, and rows of GSM8K.
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

import torch
from trained_model import ensure_trained
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from word_problems import make_problems

from posttrain.generation.generator import GenerationOptions, write_all
from posttrain.generation.local import TransformersGenerator, build_requests

ROUNDING = 1e-3


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for the trained model")
    parser.add_argument("--rows", type=Path, help="GSM8K's test.jsonl or alike, for --model")
    parser.add_argument("--model", type=Path, help="another model, trained already")
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--room", type=int, default=400, help="most tokens of an answer")
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 64], help="of ours")
    parser.add_argument("--generate-batch", action="store_true")
    parser.add_argument("--one-by-one", action="store_true")
    return parser.parse_args()


def build_prompts(tokenizer: Any, options: argparse.Namespace) -> list[str]:
    """Prompts as text: the template's, behind as many worked examples as asked for."""
    if options.rows:
        rows = [json.loads(line) for line in options.rows.read_text("utf-8").splitlines()]
    else:
        rows = make_problems(options.prompts + options.shots, seed=2)
    shots, rows = rows[: options.shots], rows[options.shots :][: options.prompts]
    head = [
        {"role": role, "content": row[key]}
        for row in shots
        for role, key in (("user", "question"), ("assistant", "answer"))
    ]
    return [
        tokenizer.apply_chat_template(
            [*head, {"role": "user", "content": row["question"]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for row in rows
    ]


Side = Callable[[], list[list[int]]]
"""Writes all answers; token ids, the end token included."""


def cut(ids: Sequence[int], end: int) -> list[int]:
    """What was written up to the end token; what follows is filling."""
    ids = list(ids)
    return ids[: ids.index(end) + 1] if end in ids else ids


def build_ours(model: Any, tokenizer: Any, prompts: Sequence[list[int]], room: int) -> Any:
    requests, asked = build_requests(prompts), GenerationOptions(room)

    def build(slots: int) -> Side:
        generator = TransformersGenerator(model, tokenizer, batch_size=slots)
        return lambda: [list(c.token_ids) for c in write_all(generator, requests, asked)]

    return build


def build_lm_eval(model: Any, tokenizer: Any, texts: Sequence[str], room: int) -> Side:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    written: dict[str, list[int]] = {}

    class Noting(HFLM):  # type: ignore[misc] # the package has no types
        """Keeps the tokens behind each text."""

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
            text = super().tok_decode(tokens, skip_special_tokens)
            if isinstance(tokens, list):
                written[text] = cut(tokens, tokenizer.eos_token_id)
            return text

    judge = Noting(pretrained=model, tokenizer=tokenizer, batch_size=32, max_length=4096)
    settings = {"until": [tokenizer.eos_token], "max_gen_toks": room, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (text, dict(settings)), number)
        for number, text in enumerate(texts)
    ]
    return lambda: [written[t] for t in judge.generate_until(requests, disable_tqdm=True)]


def build_continuous(model: Any, tokenizer: Any, prompts: Sequence[list[int]], room: int) -> Side:
    settings = GenerationConfig(
        max_new_tokens=room,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    def write() -> list[list[int]]:
        outputs = model.generate_batch(inputs=list(prompts), generation_config=settings)
        names = sorted(outputs, key=lambda name: int(name.split("_")[-1]))
        return [cut(outputs[n].generated_tokens, tokenizer.eos_token_id) for n in names]

    return write


def write_one_by_one(model: Any, prompts: Sequence[list[int]], room: int) -> list[list[int]]:
    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False
            )
        rows.append(output[0, len(prompt) :].tolist())
    return rows


def find_gaps(
    model: Any, prompts: Sequence[list[int]], ours: Sequence[list[int]], theirs: Sequence[list[int]]
) -> list[float]:
    """Where answers part, how far apart the two tokens' logits are."""
    gaps = []
    for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
        if mine == other:
            continue
        pairs = zip(mine, other, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if place is None:
            gaps.append(float("inf"))  # one goes on where the other ends: no tie explains that
            continue
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *mine[:place]]])).logits[0, -1]
        gaps.append(abs(float(logits[mine[place]] - logits[other[place]])))
    return gaps


def compare(
    name: str,
    model: Any,
    prompts: Sequence[list[int]],
    ours: Sequence[list[int]],
    theirs: Sequence[list[int]],
) -> None:
    gaps = find_gaps(model, prompts, ours, theirs)
    print(
        f"{name}: {len(ours) - len(gaps)} of {len(ours)} answers are the same; "
        f"largest gap of logits where they part: {max(gaps, default=0):.2g}"
    )
    if max(gaps, default=0) > ROUNDING:
        sys.exit(f"{name}: rounding does not explain this")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    place = options.model or ensure_trained(
        options.folder, steps=options.steps, threads=options.threads
    )
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    texts = build_prompts(tokenizer, options)
    prompts = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ours = build_ours(model, tokenizer, prompts, options.room)
    sides: dict[str, Side] = {f"ours {n}": ours(n) for n in options.slots}
    sides["lm-eval 32"] = build_lm_eval(model, tokenizer, texts, options.room)
    if options.generate_batch:
        sides["generate_batch"] = build_continuous(model, tokenizer, prompts, options.room)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, list[list[int]]] = {}
    for number in range(options.rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            found[name] = sides[name]()
            seconds[name].append(time.perf_counter() - started)
        print(f"round {number + 1}: " + ", ".join(f"{n} {s[-1]:.1f} s" for n, s in seconds.items()))
    first = f"ours {options.slots[0]}"
    report(found[first], seconds, prompts, options)
    if options.one_by_one:
        found["one by one"] = write_one_by_one(model, prompts, options.room)
    for name, written in found.items():
        if name != first:
            compare(f"{first} and {name}", model, prompts, found[first], written)


def report(
    written: Sequence[list[int]],
    seconds: dict[str, list[float]],
    prompts: Sequence[Sequence[int]],
    options: argparse.Namespace,
) -> None:
    lengths = sorted(map(len, written))
    useful = sum(lengths)
    tenth = len(lengths) // 10
    print(
        f"{len(prompts)} prompts of {statistics.mean(map(len, prompts)):.0f} tokens; answers of "
        f"{useful / len(lengths):.0f} tokens, tenth to nine tenths {lengths[tenth]} to "
        f"{lengths[-tenth - 1]}, {sum(n < options.room for n in lengths)} finished; "
        f"{options.threads} threads, torch {torch.__version__}"
    )
    print("| side | useful tokens/s | times lm-eval, median of rounds | each round |")
    print("|---|---|---|---|")
    for name, spent in seconds.items():
        ratios = [b / a for a, b in zip(spent, seconds["lm-eval 32"], strict=True)]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        rate = useful / statistics.median(spent)
        print(f"| {name} | {rate:,.0f} | {statistics.median(ratios):.2f} | {each} |")


if __name__ == "__main__":
    main()
