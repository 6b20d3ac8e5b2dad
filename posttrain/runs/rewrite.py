"""One stage's settings of another tool, key by key, into a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from posttrain.config.classes import models_of
from posttrain.config.migrate import OLD_NAMES, MigrateConfig
from posttrain.config.not_carried import find_reason
from posttrain.config.recipe import Recipe
from posttrain.config.train import AnyTrainingStage
from posttrain.config.training_arguments import is_passed_on
from posttrain.runs.old_optimizers import TOGETHER, carry_optimizer
from posttrain.runs.old_paths import OldPaths
from posttrain.runs.old_settings import find_adapter, make_plain

Place = tuple[str | int, ...]

_ONLINE = ("ppo", "grpo")


class StageRewriter:
    """Carries one stage's settings over.

    Args:
        stage: Its kind.
        number: Its place among the stages.
        recipe: Nested values; filled here.
        comments: By place in the recipe; filled here.
        config: Where the old file is, and where the new one will be.
    """

    def __init__(
        self,
        stage: str,
        number: int,
        recipe: dict[str, Any],
        comments: dict[Place, str],
        config: MigrateConfig,
    ) -> None:
        self._kind, self._number, self._config = stage, number, config
        self._recipe, self._comments = recipe, comments
        self._paths = OldPaths(config)
        self._class = next(c for c in get_args(AnyTrainingStage) if _tag(c) == stage)
        self._old: dict[str, Any] = {}
        self._stage: dict[str, Any] = {"stage": stage, "data": {}}
        recipe["stages"].append(self._stage)
        self.dropped: list[tuple[str, str]] = []
        """Old key and why it has no place."""
        self.carried = 0

    def rewrite(self, settings: list[tuple[str, Any]]) -> None:
        """Carry settings over; of two of one name the later one counts."""
        self._old = {key.rpartition(".")[2]: value for key, value in settings}
        last = {key.rpartition(".")[2]: key for key, _ in settings}
        own = self._list_handlers()
        for key, value in settings:
            name = key.rpartition(".")[2]
            if last[name] != key or value is None or value == {}:
                continue
            if "lr_scheduler_kwargs" in key.split(".")[:-1]:
                self._old.setdefault("lr_scheduler_kwargs", {})[name] = value
            elif key.partition(".")[0] in ("zero_optimization", "optimizer", "scheduler"):
                self._read_deepspeed_key(key, value)
            elif name in own:
                own[name](key, value)
            elif key == "peft.enabled":
                self._set_tuning(key, value)
            elif name in OLD_NAMES and value != "auto":
                self._set(key, OLD_NAMES[name], value)
            elif is_passed_on(name):
                passed = {**self._stage.get("training_args", {}), name: value}
                self._set(key, "stages.STAGE.training_args", passed, "as transformers has it")
            elif name not in OLD_NAMES and value is not False:
                self._drop(key, find_reason(name) or "no such setting here")
        self._set_bits()
        full = self._recipe.get("tuning", "full") == "full" and not self._recipe.get("lora")
        carry_optimizer(self._old, full=full, put=self._set, drop=self._drop)
        self._set_batch()
        self._fill_gaps()

    def _list_handlers(self) -> dict[str, Callable[[str, Any], None]]:
        files = [k for k, v in OLD_NAMES.items() if v.endswith(".sources")]
        checks = [k for k, v in OLD_NAMES.items() if v.endswith("validation_sources")]
        return {
            **dict.fromkeys(files, self._set_sources),
            **dict.fromkeys(checks, self._set_validation),
            **dict.fromkeys(("model_name_or_path", "model_path", "model_name"), self._set_model),
            **dict.fromkeys(("tokenizer_name_or_path", "tokenizer_path"), self._set_model),
            **dict.fromkeys(("template_path", "chat_template_path"), self._set_template),
            **dict.fromkeys(("finetuning_type", "use_lora", "use_peft", "lora"), self._set_tuning),
            **dict.fromkeys(
                ("lora_target", "lora_target_modules", "target_modules"), self._set_targets
            ),
            **dict.fromkeys(("bf16", "fp16"), self._set_precision),
            **dict.fromkeys(("trace", "report_to", "logger"), self._set_tracking),
            **dict.fromkeys(("attn_implementation", "flash_attn"), self._set_attention),
            **dict.fromkeys(
                (
                    "per_device_train_batch_size",
                    "train_micro_batch_size_per_gpu",
                    "batch_size",
                    "gradient_accumulation_steps",
                    "qlora",
                    "load_in_4bit",
                    "quantization_bit",
                    *TOGETHER,
                ),
                lambda key, value: None,
            ),  # together, in _set_batch, _set_bits and carry_optimizer
            **dict.fromkeys(
                ("modules_to_save", "additional_target", "frozen_parameters"), self._set_modules
            ),
            **dict.fromkeys(
                [name for name, key in OLD_NAMES.items() if key == "train_only"],
                lambda k, v: self._drop(k, "name the layers: train_only: [layers.20-27, lm_head]"),
            ),
            "init_lora_weights": self._set_init,
            "trainable_token_indices": lambda k, v: self._set(
                k,
                OLD_NAMES[k],
                sorted({i for ids in v.values() for i in ids} if isinstance(v, dict) else v),
            ),
            "output_dir": self._set_output,
            "deepspeed": self._set_deepspeed,
            "max_steps": lambda k, v: self._set(k, OLD_NAMES["max_steps"], v) if v > 0 else None,
            "load_best_model_at_end": lambda k, v: (
                self._set(k, OLD_NAMES[k], "best") if v else None
            ),
            "val_size": self._set_validation_share,
            "max_samples": self._set_limit,
            "metric_for_best_model": self._set_metric,
            "mask_history": lambda k, v: self._set_if(k, v, "last_assistant"),
            "train_on_prompt": lambda k, v: self._set_if(k, v, "everything"),
            "train_on_inputs": lambda k, v: self._set_if(k, v, "everything"),
            "use_cpu": lambda k, v: self._set_if(k, v, "cpu"),
            "no_cuda": lambda k, v: self._set_if(k, v, "cpu"),
            "use_swanlab": lambda k, v: self._set_tracking(k, "swanlab") if v else None,
            "disable_gradient_checkpointing": lambda k, v: self._set_if(k, v, False),
            "reward_model_name_or_path": self._set_reward,
            "reward_model": self._set_reward,
            "ppo_mini_batch_size": self._set_updates,
            "clip_ratio": self._set_clip,
            "rollout_backend": lambda k, v: self._drop(
                k,
                "answers are written by transformers here; engine: verl uses vLLM on a Ray cluster",
            ),
        }

    def _drop(self, key: str, reason: str) -> None:
        if (key, reason) not in self.dropped:
            self.dropped.append((key, reason))

    def _set(self, key: str, target: str, value: Any, note: str = "") -> None:
        """Put a value in its place, if the recipe has the place for this stage and takes it."""
        names = target.split(".")
        if names[0] == "stages":
            if names[1] not in ("STAGE", self._kind):
                return self._drop(key, f"is of a {names[1]} stage")
            if self._kind == "pretrain" and names[-1] == "max_tokens":
                names[-1] = "block_tokens"
            names = names[2:]
            root: type[BaseModel] = self._class
            place: Place = ("stages", self._number)
            values: Any = self._stage
        else:
            root, place, values = Recipe, (), self._recipe
        adapter = find_adapter(root, names)
        if adapter is None:
            return self._drop(key, f"a {self._kind} stage has no `{'.'.join(names)}`")
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            return self._drop(key, f"`{'.'.join(names)}` cannot be {value!r}: {message}")
        for name in names[:-1]:
            values = values.setdefault(name, {})
        values[names[-1]] = make_plain(value)
        self.carried += 1
        if note or key.rpartition(".")[2] != names[-1]:
            self._comments[(*place, *names)] = note or f"was {key}"
        return None

    def _set_if(self, key: str, switch: Any, value: Any) -> None:
        """Set what an old switch stands for, where it is on."""
        if switch is True:
            self._set(key, OLD_NAMES[key.rpartition(".")[2]], value)

    def _set_model(self, key: str, value: Any) -> None:
        target = OLD_NAMES[key.rpartition(".")[2]]
        text = str(value)
        local = self._paths.find(text) is not None or text.startswith((".", "/", "~"))
        shown = self._paths.relate(text) if local else text
        if local and not shown.startswith("."):
            shown = f"./{shown}"
        if target == "model.tokenizer" and shown == self._recipe.get("model", {}).get("path"):
            self.carried += 1  # where a model is, its tokenizer is looked for
            return
        self._set(key, target, shown)

    def _set_template(self, key: str, value: Any) -> None:
        self._set(key, "model.chat_template", self._paths.relate(str(value)))

    def _set_sources(self, key: str, value: Any) -> None:
        listed = value if isinstance(value, list) else str(value).split(",")
        files = [self._find_rows(key, str(item).strip()) for item in listed]
        if files:
            self._set(key, "stages.STAGE.data.sources", [{"path": text} for text in files])

    def _find_rows(self, key: str, name: str) -> str:
        if not key.endswith("dataset"):
            return self._paths.relate(name)
        path, hub = self._paths.find_rows(name, str(self._old.get("dataset_dir") or "data"))
        if hub:
            self._drop(
                key, f"{name} is on the hub: posttrain download {hub} kind=dataset out=data/{name}"
            )
        return path

    def _set_validation(self, key: str, value: Any) -> None:
        listed = value if isinstance(value, list) else str(value).split(",")
        found = [self._find_rows(key, str(item).strip()) for item in listed]
        paths = [{"path": text} for text in found]
        self._set(key, "stages.STAGE.data.validation_sources", paths)

    def _set_validation_share(self, key: str, value: Any) -> None:
        if 0 <= float(value) < 1:
            self._set(key, OLD_NAMES["val_size"], float(value))
        else:
            self._drop(key, f"{value} rows; split.validation is a share, such as 0.05")

    def _set_limit(self, key: str, value: Any) -> None:
        for source in self._stage["data"].get("sources", []):
            source["limit"] = int(value)
            self.carried += 1

    def _set_metric(self, key: str, value: Any) -> None:
        metric, measured = str(value).removeprefix("eval_"), self._class.validation_metrics
        if metric not in measured:
            return self._drop(key, f"`{metric}` is not measured; there is: {', '.join(measured)}")
        return self._set(key, OLD_NAMES["metric_for_best_model"], metric)

    def _set_tuning(self, key: str, value: Any) -> None:
        chosen = {"True": "lora", "False": "full", "freeze": "full"}.get(str(value), value)
        self._set(key, "tuning", chosen)

    def _set_bits(self) -> None:
        """Turn LoRA on weights of four bits into QLoRA, whatever else the old settings call it."""
        for name in ("qlora", "load_in_4bit", "quantization_bit"):
            wanted = self._old.get(name)
            if not wanted:
                continue
            if self._recipe.get("tuning") == "full":
                self._drop(name, "all weights are trained, and those of four bits cannot be")
            elif name == "quantization_bit" and wanted != 4:
                self._drop(name, f"{wanted} bits are not trained on; tuning: qlora has four")
            else:
                self._set(name, "tuning", "qlora")

    def _set_targets(self, key: str, value: Any) -> None:
        listed = (
            value if isinstance(value, list) else [part.strip() for part in str(value).split(",")]
        )
        self._set(
            key, "lora.targets", "all-linear" if listed in (["all"], ["all-linear"]) else listed
        )

    def _set_modules(self, key: str, value: Any) -> None:
        listed = value if isinstance(value, list) else [p.strip() for p in str(value).split(",")]
        self._set(key, OLD_NAMES[key.rpartition(".")[2]], listed)

    def _set_init(self, key: str, value: Any) -> None:
        if value in ("gaussian", "orthogonal"):
            self._set(key, OLD_NAMES["init_lora_weights"], value)
        elif value is not True:
            self._drop(key, f"adapters do not begin as {value} here; see lora.init")

    def _set_precision(self, key: str, value: Any) -> None:
        if value is True and key.endswith("bf16"):
            self._set(key, "compute.precision", "bf16")
        elif value is True:
            self._drop(
                key, "fp16 is not offered; compute.precision: auto takes bf16 where it is fast"
            )

    def _set_attention(self, key: str, value: Any) -> None:
        if value in ("sdpa", "eager"):
            self._set(key, "model.attention", value)
        elif value not in ("auto", False):
            self._drop(key, "model.attention: auto takes the fastest back end that works")

    def _set_tracking(self, key: str, value: Any) -> None:
        for name in value if isinstance(value, list) else [value]:
            if name in self._recipe.get("tracking", {}):
                continue
            if name in ("wandb", "swanlab", "mlflow"):
                self._set(
                    key, f"tracking.{name}", {}, f"was {key}; offline, until mode says otherwise"
                )
            elif name == "tensorboard":
                self._set(key, "tracking.tensorboard", True)
            elif str(name) not in ("none", "console", "False", ""):
                self._drop(key, f"{name} is no tracker here: tensorboard, wandb, swanlab, mlflow")

    def _set_output(self, key: str, value: Any) -> None:
        self._set(key, "output", self._paths.relate(str(Path(value).parent)), f"was {key}: {value}")

    def _set_reward(self, key: str, value: Any) -> None:
        shown = self._paths.relate(str(value)) if self._paths.find(str(value)) else str(value)
        self._set(key, "stages.STAGE.rewards.model", shown)
        self._stage.get("rewards", {})["answer"] = 0.0

    def _set_updates(self, key: str, value: Any) -> None:
        total = self._old.get("train_batch_size")
        if isinstance(total, int) and isinstance(value, int) and 0 < value <= total:
            note = f"{total} prompts / {value} in a mini batch"
            self._set(key, "stages.STAGE.updates_per_rollout", max(1, total // value), note)
        else:
            self._drop(
                key, "updates_per_rollout counts mini batches; train_batch_size is not given"
            )

    def _set_clip(self, key: str, value: Any) -> None:
        self._set(key, "stages.STAGE.clip_low", value)
        self._set(key, "stages.STAGE.clip_high", value)

    def _set_deepspeed(self, key: str, value: Any) -> None:
        found = self._paths.find(str(value)) if isinstance(value, str) else None
        if found:
            self._read_zero(key, json.loads(found.read_text(encoding="utf-8")))
        self._set(key, "parallel.deepspeed", self._paths.relate(str(value)))

    def _read_zero(self, key: str, content: dict[str, Any]) -> None:
        zero = content.get("zero_optimization") or {}
        if stage := zero.get("stage"):
            strategy = "zero3" if stage == 3 else "zero2"
            self._set(key, "parallel.strategy", strategy, f"ZeRO stage {stage} of {key}")
        weights, optimizer = zero.get("offload_param"), zero.get("offload_optimizer")
        if weights or optimizer:
            self._set(key, "parallel.offload", "all" if weights else "optimizer")

    def _read_deepspeed_key(self, key: str, value: Any) -> None:
        """A DeepSpeed JSON by itself: it goes on being used, and its ZeRO stage is spelled out."""
        if key == "zero_optimization.stage":
            whole = json.loads(self._config.source.read_text(encoding="utf-8"))
            self._read_zero("zero_optimization", whole)
            path = os.path.relpath(self._config.source, self._config.out.parent)
            self._set("this file", "parallel.deepspeed", path)

    def _set_batch(self) -> None:
        """Turn rows per device into tokens: a padded batch held at most rows x longest row."""
        names = ("per_device_train_batch_size", "train_micro_batch_size_per_gpu", "batch_size")
        name = next((n for n in names if isinstance(self._old.get(n), int)), None)
        if self._kind in _ONLINE:
            if name:
                self._drop(name, "prompts_per_rollout and updates_per_rollout say how many")
            return
        data = self._stage["data"]
        field = "block_tokens" if self._kind == "pretrain" else "max_tokens"
        longest = data.get(field) or self._default_of(field)
        if self._old.get("auto_find_batch_size") is True:
            self._set("auto_find_batch_size", "stages.STAGE.batch_tokens", "auto")
        elif name:
            rows = self._old[name]
            pairs = 2 if self._kind in ("dpo", "reward") else 1
            sides = " x 2 answers" if pairs == 2 else ""
            note = f"{name}: {rows} x {longest} tokens{sides}, the most a padded batch held"
            self._set(name, "stages.STAGE.batch_tokens", rows * longest * pairs, note)
        accumulate = self._old.get("gradient_accumulation_steps")
        if isinstance(accumulate, int) and accumulate > 0:
            key = "gradient_accumulation_steps"
            self._set(key, "stages.STAGE.accumulate", accumulate)

    def _default_of(self, field: str) -> Any:
        return models_of(self._class.model_fields["data"])[0].model_fields[field].default

    def _fill_gaps(self) -> None:
        """Give what a recipe must have and the old settings do not say."""
        if not self._recipe.get("model", {}).get("path"):
            self._recipe.setdefault("model", {})["path"] = "tiny"
            self._comments["model", "path"] = "none was named; put yours here"
        data = self._stage["data"]
        if not data.get("sources"):
            data["sources"] = [{"path": "train.jsonl"}]
            self._comments["stages", self._number, "data", "sources"] = "put your files here"
        if self._kind == "grpo" and self._stage.get("completions", 8) < 2:
            self._stage["completions"] = 8
        if self._recipe.get("lora") and "tuning" not in self._recipe:
            self._recipe["tuning"] = "lora"
            self._comments[("tuning",)] = "for there are LoRA settings"
        data = self._stage["data"] = self._stage.pop("data")
        if "early_stopping" in self._stage and not {"split", "validation_sources"} & set(data):
            data["split"] = {"validation": 0.05}
            note = "early stopping looks at rows that are not trained on; none were named"
            self._comments["stages", self._number, "data", "split"] = note


def _tag(stage: type[BaseModel]) -> str:
    return str(get_args(stage.model_fields["stage"].annotation)[0])
