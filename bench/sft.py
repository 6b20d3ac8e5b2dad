"""Supervised fine-tuning: our packed step beside transformers' own padded step, in one process.

Both sides train the same model from the same weights on the same rows with the same optimizer
(AdamW, fused), number format and threads. Each round times one pass of each side over the same
examples, in turn; the figure is the median of the rounds' ratios.

Ours: packed batches, segment attention, head on supervised tokens only.
Theirs: transformers' forward with `labels`, sdpa attention, batches grouped by length (its
`group_by_length`, the least padding it can have), right-padded, about as many tokens a batch.

    python bench/sft.py                      # CPU, tiny
    python bench/sft.py --model tiny-wide    # 152k output rows
    python bench/sft.py --device cuda        # bf16
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from posttrain.config.load import build_recipe
from posttrain.data.pack import plan_batches
from posttrain.data.prepare import prepare_data
from posttrain.data.store import ExampleStore
from posttrain.models.attention import register_attention
from posttrain.models.load import load_model, load_tokenizer
from posttrain.models.packed import prepare_packed, score_batch
from posttrain.objectives.language import weighted_nll
from posttrain.runtime import choose_compute
from posttrain.samples import GENERATORS
from posttrain.training.batches import PlannedBatches

IGNORED = -100


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--kind", default="math", choices=["math", "chat"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def load_store(options: argparse.Namespace) -> tuple[ExampleStore, object]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = GENERATORS[options.kind](options.rows, 0)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        stage = {"stage": "sft", "data": {"sources": [{"path": path}]}}
        values = {"name": "bench", "model": {"path": options.model}, "stages": [stage]}
        recipe = build_recipe(values, [], "bench")
        tokenizer = load_tokenizer(recipe.model)
        return prepare_data(recipe.stages[0].data, tokenizer).train, recipe.model


def packed_side(store, config, device, precision, batch_tokens):
    model = load_model(config, attention="posttrain_sdpa", dtype="float32", prepare=prepare_packed)
    model.to(device).train()
    plan = plan_batches(store.lengths, batch_tokens=batch_tokens, seed=0, epochs=1)
    batches = [{k: to(v, device) for k, v in b.items()} for b in PlannedBatches(store, plan)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k != "number"}
            with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
                scores = score_batch(model, inputs)
                weights = inputs["score_weights"]
                loss = weighted_nll(scores.logprobs_N, weights, total_weight=weights.sum())
            step(model, optimizer, loss)

    return run


def padded_side(store, config, device, precision, batch_tokens):
    model = load_model(config, attention="sdpa", dtype="float32").to(device).train()
    model.config.use_cache = False
    order = sorted(range(len(store)), key=lambda i: -store.lengths[i])
    groups, start = [], 0
    while start < len(order):
        size = max(1, batch_tokens // int(store.lengths[order[start]]))
        groups.append(pad(store, order[start : start + size], device))
        start += size
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        for batch in groups:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = model(**batch).loss
            step(model, optimizer, loss)

    return run


def pad(store, indices, device):
    width = max(int(store.lengths[i]) for i in indices)
    ids = torch.zeros(len(indices), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, index in enumerate(indices):
        tokens, trained = (torch.from_numpy(x.copy()) for x in store.example(index))
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)] = torch.where(trained, tokens.long(), IGNORED)
    tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def step(model, optimizer, loss) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def to(value, device):
    return value.to(device) if isinstance(value, torch.Tensor) else value


def main() -> None:
    options = parse()
    register_attention()
    compute = choose_compute(options.device, "auto", "auto")
    compute.apply()
    store, config = load_store(options)
    arguments = (store, config, compute.device, compute.precision, options.batch_tokens)
    sides = {"packed (ours)": packed_side(*arguments), "padded": padded_side(*arguments)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if compute.device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    tokens = int(store.lengths.sum())
    ours, theirs = seconds.values()
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{platform.processor() or platform.machine()}, {compute.device} {compute.precision}, "
        f"{compute.threads} threads, torch {torch.__version__}; {options.model}, "
        f"{len(store)} rows of {options.kind}, {tokens:,} tokens, {options.rounds} rounds"
    )
    for name, times in seconds.items():
        print(f"{name:<14} {tokens / statistics.median(times):>10,.0f} tokens/s")
    print(f"ratio          {statistics.median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]")


if __name__ == "__main__":
    main()
