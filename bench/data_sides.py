"""One timed piece of work in a process of its own; started by ``bench/data.py``.

    python bench/data_sides.py SIDE '{"rows": "rows.jsonl", "tokenizer": "...", ...}'

Sides are the functions of ``SIDES``. The last line of standard output is the result as JSON.
Imports, and loading the tokenizer, are not timed unless a side says so.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from chat_rows import generate_lengths

BATCH_TOKENS = 8192
IGNORED = -100


def learn_ours(options: dict[str, Any]) -> dict[str, Any]:
    """What is found out once about a tokenizer and kept: how to encode fast, and that it agrees."""
    from posttrain.data.tokens import build_codec
    from posttrain.models.load import load_tokenizer

    tokenizer = load_tokenizer(build_recipe_of(options).model)
    clock = Clock()
    codec = build_codec(tokenizer)
    return {**clock.read(), "codec": codec.name, "reason": codec.reason}


def prepare_ours(options: dict[str, Any]) -> dict[str, Any]:
    """JSONL file -> digest, read, check, render, encode, mask, audit, statistics, store, plan."""
    from posttrain.data.prepare import prepare_data
    from posttrain.models.load import load_tokenizer
    from posttrain.training.batches import build_schedule

    recipe = build_recipe_of(options)
    stage = recipe.stages[0]
    tokenizer = load_tokenizer(recipe.model)
    ready(options)
    clock = Clock()
    data = prepare_data(stage.data, tokenizer)
    prepared = clock.read()
    schedule = build_schedule(data.train, stage, seed=0)
    taken = clock.read()
    assert not data.reused
    store = data.train
    if options.get("keep"):
        save_examples(
            options["keep"], store.token_ids, store.weights != 0, store.lengths, store.places[:, 1]
        )
    return {
        **taken,
        "plan_seconds": taken["seconds"] - prepared["seconds"],
        "rows_used": len(store),
        "tokens": int(store.offsets[-1]),
        "batches": len(schedule.batches),
        "rejects": data.report["rejects"],
        "median_tokens": float(np.median(store.lengths)),
        "mean_tokens": float(store.lengths.mean()),
        "p99_tokens": float(np.percentile(store.lengths, 99)),
    }


def encode_ours(options: dict[str, Any]) -> dict[str, Any]:
    """Rows already in memory -> check, render, encode, mask, audit, plan: the peer's share."""
    from functools import partial

    from posttrain.data.batch import BuildPlan, Part
    from posttrain.data.build import build_batches
    from posttrain.data.encoders import build_encoder
    from posttrain.data.pack import plan_batches
    from posttrain.data.readers import RowBatch
    from posttrain.data.sources import build_converter, choose_source_format
    from posttrain.models.load import load_tokenizer

    recipe = build_recipe_of(options)
    data, tokenizer = recipe.stages[0].data, load_tokenizer(recipe.model)
    (source,) = data.sources
    rows = read_rows(options["rows"])
    batches = [
        RowBatch(str(source.path), range(i + 1, i + 1 + len(some)), some)
        for i in range(0, len(rows), 256)
        for some in [rows[i : i + 256]]
    ]
    convert = build_converter(source, choose_source_format(source, "chat")[0])
    ready(options)
    clock = Clock()
    plan = BuildPlan(data, build_encoder(data, tokenizer), None)
    parts = [Part(0, source.path, convert, partial(iter, batches), 0)]
    blocks = [result.block for _, result in build_batches(parts, plan, options["workers"])]
    lengths = np.concatenate([block.lengths for block in blocks])
    planned = plan_batches(lengths, batch_tokens=BATCH_TOKENS, seed=0, epochs=1)
    return {**clock.read(), "rows_used": len(lengths), "batches": len(planned)}


def prepare_peer(options: dict[str, Any]) -> dict[str, Any]:
    """Rows already in memory -> TRL's own ``SFTTrainer._prepare_dataset``, packing included."""
    import datasets

    datasets.disable_caching()
    dataset = datasets.Dataset.from_list(read_rows(options["rows"]))
    ready(options)
    trainer, packed = run_peer(options, dataset)
    ids, labels, lengths = packed["ids"], packed["labels"], packed["lengths"]
    if options.get("keep"):
        numbers = np.arange(1, len(lengths) + 1)
        save_examples(options["keep"], ids, labels != IGNORED, lengths, numbers)
    return {
        **packed["taken"],
        "rows_used": len(lengths),
        "tokens": int(lengths.sum()),
        "batches": len(trainer.train_dataset),
    }


def run_peer(options: dict[str, Any], dataset: Any) -> tuple[Any, dict[str, Any]]:
    """Make TRL's trainer; its preparation is timed and what it packs is looked at on the way."""
    import datasets
    import trl.trainer.sft_trainer as module
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(options["tokenizer"])
    if options.get("template"):
        tokenizer.chat_template = Path(options["template"]).read_text(encoding="utf-8")
    seen: dict[str, Any] = {}
    pack_dataset = module.pack_dataset

    def pack(dataset: Any, *arguments: Any) -> Any:
        seen["dataset"] = dataset
        return pack_dataset(dataset, *arguments)

    class TimedTrainer(module.SFTTrainer):
        def _prepare_dataset(self, *arguments: Any) -> Any:
            clock = Clock()
            result = super()._prepare_dataset(*arguments)
            seen["taken"] = clock.read()
            return result

    module.pack_dataset = pack
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    settings = module.SFTConfig(
        output_dir=options["folder"],
        assistant_only_loss=True,
        packing=True,
        max_length=BATCH_TOKENS,
        dataset_num_proc=None if options["workers"] == 1 else options["workers"],
        per_device_train_batch_size=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = TimedTrainer(
        Qwen3ForCausalLM(config), settings, train_dataset=dataset, processing_class=tokenizer
    )
    table = seen["dataset"].with_format("arrow")[:]
    seen["ids"], lengths = flatten(table["input_ids"])
    seen["labels"], _ = flatten(table["labels"])
    seen["lengths"] = lengths
    return trainer, seen


def warm_ours(options: dict[str, Any]) -> dict[str, Any]:
    """From the end of the imports to the first batch of a data set that is in the cache."""
    from transformers import AutoTokenizer  # noqa: F401 - an import of its own

    from posttrain.data.prepare import prepare_data
    from posttrain.models.load import load_tokenizer
    from posttrain.training.batches import PlannedBatches, build_schedule

    recipe = build_recipe_of(options)
    stage = recipe.stages[0]
    times = [time.perf_counter()]
    tokenizer = load_tokenizer(recipe.model)
    times.append(time.perf_counter())
    data = prepare_data(stage.data, tokenizer)
    times.append(time.perf_counter())
    schedule = build_schedule(data.train, stage, seed=0)
    times.append(time.perf_counter())
    batch = PlannedBatches(data.train, schedule.batches)[0]
    times.append(time.perf_counter())
    parts = ("tokenizer", "data", "plan", "first_batch")
    split = {name: b - a for name, a, b in zip(parts, times, times[1:], strict=False)}
    return {"reused": data.reused, "keys": len(batch), **split, "seconds": times[-1] - times[1]}


def warm_peer(options: dict[str, Any]) -> dict[str, Any]:
    """TRL's second start: its cached data set, its cached preparation, the first batch."""
    import datasets
    from trl import SFTTrainer  # noqa: F401 - an import of its own

    datasets.disable_progress_bars()
    started = time.perf_counter()
    dataset = datasets.load_dataset(
        "json", data_files=options["rows"], split="train", cache_dir=options["folder"]
    )
    loaded = time.perf_counter()
    trainer, packed = run_peer(options, dataset)
    begun = time.perf_counter()
    batch = next(iter(trainer.get_train_dataloader()))
    first = time.perf_counter() - begun
    parts = {"data": loaded - started, "prepare": packed["taken"]["seconds"], "first_batch": first}
    return {"keys": len(batch), **parts, "seconds": sum(parts.values())}


def pack_both(options: dict[str, Any]) -> dict[str, Any]:
    """Plan the batches of so many lengths, and let TRL pack rows of the same lengths."""
    import datasets
    import pyarrow as pa
    from trl import pack_dataset

    from posttrain.data.pack import plan_batches

    datasets.disable_caching()
    datasets.disable_progress_bars()
    lengths = np.array(generate_lengths(options["count"], BATCH_TOKENS))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = pa.array(np.zeros(offsets[-1], np.int32))
    column = pa.LargeListArray.from_arrays(pa.array(offsets), flat)
    rows = datasets.Dataset(pa.table({"input_ids": column, "labels": column}))
    rounds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(options["rounds"]):
        started = time.perf_counter()
        plan = plan_batches(lengths, batch_tokens=BATCH_TOKENS, seed=0, epochs=1)
        rounds["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        packed = pack_dataset(rows, BATCH_TOKENS, "bfd")
        rounds["peer"].append(time.perf_counter() - started)
    total = int(lengths.sum())
    assert np.array_equal(np.sort(np.concatenate(plan)), np.arange(len(lengths)))
    return {
        "rounds": rounds,
        "fill_ours": total / (len(plan) * BATCH_TOKENS),
        "fill_peer": total / (len(packed) * BATCH_TOKENS),
        "tokens": total,
    }


def build_recipe_of(options: dict[str, Any]) -> Any:
    from posttrain.config.load import build_recipe

    data = {
        "sources": [{"path": options["rows"]}],
        "max_tokens": BATCH_TOKENS,
        "workers": options["workers"],
        **options.get("data", {}),
    }
    model = {"path": options["tokenizer"], "chat_template": options.get("template")}
    stage = {"stage": "sft", "data": data, "batch_tokens": BATCH_TOKENS, "epochs": 1}
    return build_recipe({"name": "bench", "model": model, "stages": [stage]}, [], "bench")


class Clock:
    """Seconds since it was made: of the wall, and of the cores for this process and its workers."""

    def __init__(self) -> None:
        self._wall, self._cores = time.perf_counter(), sum(os.times()[:4])

    def read(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self._wall,
            "core_seconds": sum(os.times()[:4]) - self._cores,
        }


def ready(options: dict[str, Any]) -> None:
    """Tell the parent that the timed part begins, and wait for its word where it measures."""
    if options.get("wait"):
        print("ready", flush=True)
        sys.stdin.readline()


def read_rows(path: str) -> list[dict]:
    """Rows with the columns of a table: it would take those of its first row alone."""
    with Path(path).open(encoding="utf-8") as file:
        return [{"tools": None, **json.loads(line)} for line in file]


def flatten(column: Any) -> tuple[np.ndarray, np.ndarray]:
    column = column.combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False), lengths


def save_examples(path: str, ids: Any, trained: Any, lengths: Any, lines: Any) -> None:
    arrays = {"ids": ids, "trained": trained, "lengths": lengths, "lines": lines}
    np.savez(path, **{name: np.asarray(values) for name, values in arrays.items()})


SIDES = {
    side.__name__: side
    for side in (
        learn_ours,
        prepare_ours,
        encode_ours,
        prepare_peer,
        warm_ours,
        warm_peer,
        pack_both,
    )
}

if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print("\n" + json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))))
