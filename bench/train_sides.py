"""One trainer in a process of its own, which runs as many steps as it is told; see ``train.py``.

    python bench/train_sides.py SIDE '{"model": "folder", "rows": "rows.jsonl", ...}'

A line with a number on standard input is that many optimizer steps; when they are done, a line of
JSON on standard output says how long they took. Between, the process sleeps.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainerCallback

IGNORED = -100
MANY_STEPS = 3000
# The line that the parent reads must not meet what libraries print.
_REPORTS = os.fdopen(os.dup(1), "w")


class Pacer(TrainerCallback):
    """Waits for the parent before a round, and reports behind it."""

    left = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen = {"tokens": 0, "examples": 0, "pairs": 0, "scored": 0}
        kwargs["model"].register_forward_pre_hook(self.count, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.left:
            self.left = int(sys.stdin.readline() or 0)
            if not self.left:
                os._exit(0)
            self.seen = dict.fromkeys(self.seen, 0)
            synchronize()
            self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= 1
        if not self.left:
            synchronize()
            seconds = time.perf_counter() - self.started
            report({"seconds": seconds, **self.seen, "peak_bytes": peak_bytes()})

    def count(self, module: Any, arguments: Any, kwargs: dict[str, Any]) -> None:
        """Count the tokens that are no padding; of packed batches also what FLOPs are made of."""
        if not module.training or not self.left:
            return
        if (table := kwargs.get("segments")) is not None:
            self.seen["tokens"] += table.total_tokens
            self.seen["examples"] += sum(p == -1 for p in table.parents)
            self.seen["scored"] += len(kwargs["score_targets"])
            for i, length in enumerate(table.lengths):
                before = sum(table.lengths[a] for a in table.ancestors(i))
                self.seen["pairs"] += length * before + length * (length + 1) // 2
            return
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        self.seen["tokens"] += ids.numel() if mask is None else int(mask.sum())
        self.seen["examples"] += len(ids)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(values: dict[str, Any]) -> None:
    _REPORTS.write(json.dumps(values) + "\n")
    _REPORTS.flush()


def run_ours(options: dict[str, Any], *, flat: bool = False) -> None:
    """The stage as ``posttrain train`` runs it."""
    from posttrain.config.load import build_recipe
    from posttrain.models.attention import register_attention
    from posttrain.runtime import Compute
    from posttrain.training.preference import train_dpo
    from posttrain.training.sft import train_sft
    from posttrain.training.stage import TrainingJob

    if flat:
        repeat_prompts()
    stage = {
        "stage": "dpo" if options["preference"] else "sft",
        "data": {"sources": [{"path": options["rows"]}], "max_tokens": options["tokens"]},
        "batch_tokens": options["tokens"],
        "steps": MANY_STEPS,
        "save_every_steps": MANY_STEPS,
        "schedule": "constant",
        "learning_rate": options["learning_rate"],
    }
    recipe = build_recipe(
        {
            "name": "bench",
            "model": {"path": options["model"]},
            "tuning": options["tuning"],
            "lora": {"targets": "all-linear"},
            "stages": [stage],
        },
        [],
        "bench",
    )
    register_attention()
    precision = "bf16" if options["device"] == "cuda" else "fp32"
    compute = Compute(options["device"], precision, options["threads"], "the bench")
    compute.apply()
    with tempfile.TemporaryDirectory() as folder:
        job = TrainingJob(recipe, recipe.stages[0], Path(folder), compute, "bench")
        (train_dpo if options["preference"] else train_sft)(job)


def repeat_prompts() -> None:
    """Let a pair be two rows that each hold the prompt, behind a token that stands for it."""
    import numpy as np

    from posttrain.data.store import ExampleStore
    from posttrain.layout import Segment

    shared, lengths = ExampleStore.tree, ExampleStore.lengths

    def longer(store: Any) -> Any:
        firsts = [len(shared(store, i)[0].token_ids) for i in range(len(store))]
        return lengths.fget(store) + np.array(firsts, dtype=np.int64) + 1

    def tree(store: Any, index: int) -> list[Segment]:
        prompt, *answers = shared(store, index)
        rows = [
            Segment(
                np.concatenate([prompt.token_ids, answer.token_ids]),
                np.concatenate([np.zeros(len(prompt.token_ids)), answer.weights]),
            )
            for answer in answers
        ]
        return [Segment(prompt.token_ids[:1], np.zeros(1)), *rows]

    ExampleStore.tree = tree
    ExampleStore.lengths = property(longer)


def run_ours_flat(options: dict[str, Any]) -> None:
    run_ours(options, flat=True)


def arguments_of(options: dict[str, Any], folder: str, **changes: Any) -> dict[str, Any]:
    """What all peers are told."""
    cuda = options["device"] == "cuda"
    return {
        "output_dir": folder,
        "max_steps": MANY_STEPS,
        "learning_rate": options["learning_rate"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "bf16": cuda,
        "dataloader_pin_memory": cuda,
        **changes,
    }


BEST_SFT = {
    "packing": True,
    "assistant_only_loss": True,
    "gradient_checkpointing": False,
    "per_device_train_batch_size": 1,
}


def run_trl_best(options: dict[str, Any]) -> None:
    if options["preference"]:
        changes = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
        run_trl_dpo(options, {**changes, "max_length": options["tokens"]})
    else:
        run_trl_sft(options, {**BEST_SFT, "max_length": options["tokens"]})


def run_trl_default(options: dict[str, Any]) -> None:
    if options["preference"]:
        run_trl_dpo(options, {"max_length": options["tokens"]})
    else:
        run_trl_sft(options, {"max_length": options["tokens"]})


def run_trl_sft(options: dict[str, Any], changes: dict[str, Any]) -> None:
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load(options)
    rows = dataset(options, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(**arguments_of(options, folder, **changes))
        SFTTrainer(
            model,
            settings,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=adapters(options),
        ).train()


def run_trl_dpo(options: dict[str, Any], changes: dict[str, Any]) -> None:
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = load(options)
    reference, _ = load(options)
    rows = dataset(options, tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        settings = DPOConfig(**arguments_of(options, folder, **changes))
        needs_one = not changes.get("precompute_ref_log_probs")
        DPOTrainer(
            model,
            ref_model=reference if needs_one else None,
            args=settings,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=adapters(options),
        ).train()


def run_transformers(options: dict[str, Any]) -> None:
    """Padded rows in batches of similar length, labels on the assistant's tokens alone."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model, tokenizer = load(options)
    if (settings := adapters(options)) is not None:
        import peft

        model = peft.get_peft_model(model, settings)
    chats = [row["messages"] for row in dataset(options, tokenizer)]
    encoded = tokenizer.apply_chat_template(
        chats, return_dict=True, return_assistant_tokens_mask=True
    )
    rows = [
        {"input_ids": ids, "labels": [i if t else IGNORED for i, t in zip(ids, on, strict=True)]}
        for ids, on in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
        if any(on)
    ]
    with tempfile.TemporaryDirectory() as folder:
        changes = {"per_device_train_batch_size": options["rows_a_batch"]}
        changes |= {"train_sampling_strategy": "group_by_length"}
        Trainer(
            model,
            TrainingArguments(**arguments_of(options, folder, **changes)),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer),
        ).train()


def load(options: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options["model"])
    dtype = torch.bfloat16 if options["tuning"] == "lora" and options["device"] == "cuda" else None
    model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=dtype or torch.float32)
    return model, tokenizer


def adapters(options: dict[str, Any]) -> Any:
    if options["tuning"] != "lora":
        return None
    import peft

    return peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def dataset(options: dict[str, Any], tokenizer: Any) -> Any:
    """The rows that are no longer than ours may be."""
    import datasets

    datasets.disable_progress_bars()
    with Path(options["rows"]).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if not options["preference"]:
        chats = [row["messages"] for row in rows]
        lengths = map(len, tokenizer.apply_chat_template(chats, return_dict=True)["input_ids"])
        rows = [row for row, n in zip(rows, lengths, strict=True) if n <= options["tokens"]]
    return datasets.Dataset.from_list(rows)


SIDES = {
    "ours": run_ours,
    "ours-flat": run_ours_flat,
    "trl-best": run_trl_best,
    "trl-default": run_trl_default,
    "transformers": run_transformers,
}

if __name__ == "__main__":
    os.dup2(2, 1)
    told = json.loads(sys.argv[2])
    torch.set_num_threads(told["threads"])
    transformers.trainer.DEFAULT_CALLBACKS.append(Pacer)
    SIDES[sys.argv[1]](told)
