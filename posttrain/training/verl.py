"""GRPO and PPO on a Ray cluster: everything that verl 0.9.1 needs, written into one folder.

verl has an environment of its own, with other versions of what this program stands on. So nothing
of it is imported here, and nothing of this program there: the grading modules go along as files.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.config.recipe import Recipe
from posttrain.config.verl_keys import VERL_VERSION
from posttrain.data.store import ExampleStore
from posttrain.errors import ConfigError, DataError
from posttrain.extras import require_extra
from posttrain.files import publish_folder, write_json, write_text
from posttrain.logs import say, show
from posttrain.models.load import (
    find_gguf,
    find_model,
    find_quantization,
    is_adapter,
    load_model_config,
    load_tokenizer,
)
from posttrain.models.rows import find_added_rows
from posttrain.runtime import command_name, is_main_process
from posttrain.training.data import load_data
from posttrain.training.stage import TrainingJob
from posttrain.training.verl_settings import (
    RolloutStage,
    build_settings,
    check_method,
    count_batches,
)

# What the reward function needs, each of it by itself.
_GRADING = (
    *("answers", "choices", "equivalence", "expressions", "normalization", "numbers", "rewards"),
    *("structures", "tool_calls", "values", "verdicts"),
)
_RUN = """\
#!/usr/bin/env bash
# Start this in the environment of verl {version}, on the head of the Ray cluster. Settings that
# follow win: bash run.sh trainer.nnodes=2
set -euo pipefail
mapfile -t overrides < "$(dirname "${{BASH_SOURCE[0]}}")/overrides.txt"
exec python -m verl.trainer.main_ppo "${{overrides[@]}}" "$@"
"""


def export_verl(job: TrainingJob) -> dict[str, Any]:
    """Write what verl needs to run a stage, and print what to type.

    The folder ``verl`` of the stage then holds train.parquet, validation.parquet, tokenizer/,
    reward.py with posttrain_grading/ and reward.json, overrides.txt, run.sh, and next.txt, which is
    what is printed.

    Args:
        job: A GRPO or PPO stage.

    Returns:
        Figures for the stage's summary: prompts and rounds.

    Raises:
        ConfigError: verl cannot do what the recipe says, or its batch sizes do not divide.
        DataError: A prompt has no reference answer, or verl would render it otherwise.
        MissingExtraError: pyarrow is not installed.
    """
    stage: RolloutStage = job.stage
    if not is_main_process():
        return {}
    place = check_verl(job.recipe, stage)
    tokenizer = load_tokenizer(job.recipe.model)
    data = load_data(job, tokenizer)
    if len(data.train) < stage.prompts_per_rollout:
        raise ConfigError(
            f"stage `{stage.name}`: {len(data.train)} training prompts do not make one round of "
            f"{stage.prompts_per_rollout}, and verl leaves out rounds that are not full",
            hint="lower prompts_per_rollout or add data",
        )
    folder = (job.folder / "verl").resolve()
    settings = build_settings(job, place, folder, len(data.train))
    arithmetic = count_batches(settings, f"stage `{stage.name}`")
    train = list(_rows(data.train, tokenizer, stage, "train"))
    validation = list(_rows(data.validation, tokenizer, stage, "validation"))
    if not validation:
        say("verl takes no empty validation set: one training prompt stands there, never answered")
        validation = [{**train[0], "extra_info": {**train[0]["extra_info"], "split": "none"}}]
        settings |= {"trainer.test_freq": -1, "trainer.val_before_train": False}
    following = _describe_next(job, folder)
    with publish_folder(folder) as building:
        _write_parquet(building / "train.parquet", train)
        _write_parquet(building / "validation.parquet", validation)
        _write_reward(building, stage, settings)
        tokenizer.save_pretrained(building / "tokenizer")
        lines = [f"{key}={quote_value(value)}" for key, value in settings.items()]
        write_text(building / "overrides.txt", "".join(line + "\n" for line in lines))
        write_text(building / "run.sh", _RUN.format(version=VERL_VERSION))
        write_text(building / "next.txt", following + "\n")
    for line in arithmetic:
        say(f"verl: {line}")
    show(following)
    return {"engine": "verl", "prompts": len(train), "rounds": stage.rollouts}


def check_verl(recipe: Recipe, stage: RolloutStage) -> str:
    """Look for what verl cannot do, before anything is begun.

    Args:
        recipe: With ``model.path`` the model to start from.
        stage: A GRPO or PPO stage.

    Returns:
        The model's folder or hub id.

    Raises:
        ConfigError: Of tuning, model, lengths, reward model or batch sizes.
        MissingExtraError: pyarrow is not installed.
    """
    require_extra("pyarrow", "verl")
    check_method(recipe, stage)
    place = _find_whole(recipe.model)
    if recipe.tuning == "lora" and recipe.lora.train_rows and find_added_rows(recipe.model):
        raise ConfigError(
            f"stage `{stage.name}`: rows of tokens that extend-tokenizer has added would stay "
            "untrained, for verl's adapters have none (lora.train_rows)",
            hint="train the model further first (pretrain or sft), or set lora.train_rows=[]",
        )
    name = stage.rewards.model
    if name and is_adapter(find_model(name)):
        raise ConfigError(
            f"stage `{stage.name}`: rewards.model {name} is an adapter; verl serves whole models",
            hint="train the reward model with tuning=full",
        )
    wanted = stage.data.max_tokens + stage.max_new_tokens
    known = getattr(load_model_config(recipe.model), "max_position_embeddings", None)
    if known and wanted > known:
        raise ConfigError(
            f"stage `{stage.name}`: data.max_tokens + max_new_tokens = {wanted:,}, the model reads "
            f"at most {known:,} tokens",
            hint="lower one of them",
        )
    return place


def _find_whole(model: ModelConfig) -> str:
    """Find the model as verl can load it: whole, not quantized, no revision."""
    place = find_model(model.path)
    stored: str | None = "an adapter"
    if not is_adapter(place):
        stored = "a GGUF file" if find_gguf(place) else find_quantization(model)
    if stored:
        raise ConfigError(
            f"model {model.path}: is {stored}; verl starts from whole, unquantized models",
            hint="put a `stage: merge` before this one, or start from the model before "
            "quantization",
        )
    if model.revision and not Path(place).is_dir():
        raise ConfigError(
            f"model {model.path}: verl knows no revision ({model.revision})",
            hint="copy that revision here with `posttrain download` and give its folder",
        )
    return str(Path(place).resolve()) if Path(place).is_dir() else place


def _rows(
    store: ExampleStore, tokenizer: Any, stage: RolloutStage, split: str
) -> Iterator[dict[str, Any]]:
    """Turn prepared prompts into verl's rows; each must be rendered there as it was here."""
    for index, note in enumerate(store.notes):
        origin, reference = store.origin(index), note.get("reference") or ""
        if stage.rewards.answer and not reference:
            raise DataError(
                f"{origin}: no reference answer to grade against",
                hint="give rows with one, as of the gsm8k format, or set rewards.answer: 0 and "
                "rewards.model",
            )
        prompt = [{"role": m["role"], "content": m.get("content") or ""} for m in note["prompt"]]
        # The call that verl makes.
        ids = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        if list(ids) != store.example(index)[0].tolist():
            raise DataError(
                f"{origin}: verl would render this prompt otherwise: it takes roles and texts, no "
                "tools or tool calls",
                hint="take such rows out, or set engine=local",
            )
        extra = {"split": split, "index": index, "origin": str(origin)}
        if stage.rewards.model:
            extra["prompt"] = json.dumps(prompt, ensure_ascii=False)
        yield {
            "data_source": Path(origin.file).stem,
            "prompt": prompt,
            "ability": stage.name,
            "reward_model": {"style": "rule", "ground_truth": reference},
            "extra_info": extra,
        }


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    table = require_extra("pyarrow", "verl").Table.from_pylist(rows)
    require_extra("pyarrow.parquet", "verl").write_table(table, path)


def _write_reward(folder: Path, stage: RolloutStage, settings: dict[str, Any]) -> None:
    """Copy the reward function and the grading modules, so that they need nothing of ours."""
    package = Path(__file__).resolve().parents[1]
    for name in _GRADING:
        source = (package / "grading" / f"{name}.py").read_text(encoding="utf-8")
        write_text(folder / "posttrain_grading" / f"{name}.py", _detach(source))
    write_text(folder / "posttrain_grading" / "__init__.py", "")
    source = (package / "training" / "verl_reward.py").read_text(encoding="utf-8")
    beside = "import sys\n\nsys.path.insert(0, str(Path(__file__).resolve().parent))\n"
    source = source.replace("from posttrain.", beside + "from posttrain.", 1)
    write_text(folder / "reward.py", _detach(source))
    weights = stage.rewards.model_dump(mode="json", exclude={"model_from"})
    if weights["model"]:
        weights["model"] = settings["reward.reward_model.model_path"]
        weights["backend"] = settings["reward.reward_model.rollout.name"]
    write_json(folder / "reward.json", weights)


def _detach(source: str) -> str:
    """Let a module of ours import its neighbours from the copy."""
    return source.replace("from posttrain.grading.", "from posttrain_grading.")


def quote_value(value: Any) -> str:
    """Write a value so that Hydra reads it back as it is.

    Raises:
        ConfigError: A text holds a line break or ``${``, which Hydra would replace.
    """
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "[" + ",".join(quote_value(item) for item in value) + "]"
    if not isinstance(value, str):
        return str(value)
    if "\n" in value or "${" in value:
        raise ConfigError(f"verl cannot be given the text {value!r}", hint="choose another name")
    if re.fullmatch(r"[A-Za-z_/][\w./-]*", value) and value.lower() not in _WORDS:
        return value
    # Inside quotes, a backslash counts only before a quote.
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return "'" + escaped + "\\" * trailing + "'"


_WORDS = {"null", "none", "true", "false", "nan", "inf"}


def _describe_next(job: TrainingJob, folder: Path) -> str:
    """What to type in verl's environment, and after it here."""
    stage: RolloutStage = job.stage
    checkpoint = job.folder.resolve() / "verl_checkpoints" / f"global_step_{stage.rollouts}"
    made = job.folder.resolve() / "verl_model"
    places = shlex.join(["--local_dir", str(checkpoint / "actor"), "--target_dir", str(made)])
    lines = [
        f"start it, in the environment of verl {VERL_VERSION}:",
        f"  {shlex.join(['bash', str(folder / 'run.sh')])}",
        "that is python -m verl.trainer.main_ppo with every line of overrides.txt as an argument",
        f"then, there as well, make its last checkpoint ({checkpoint}) a model folder:",
        f"  python -m verl.model_merger merge --backend fsdp {places}",
    ]
    if job.recipe.tuning == "lora":
        whole = made.with_name("verl_merged")
        adapter = shlex.join([str(made / "lora_adapter"), f"base={made}", f"out={whole}"])
        lines += ["and here, merge the adapter:", f"  {command_name()} merge {adapter}"]
        made = whole
    stages = job.recipe.stages
    later = stages[[s.name for s in stages].index(stage.name) + 1 :]
    judged = [s.name for s in later if s.stage == "evaluate"]
    if judged:
        words = [f"name={job.recipe.name}-verl", f"model.path={made}"]
        words += [f"stages.{name}.model_from=base" for name in judged]
        lines += ["measure it:", f"  {command_name()} evaluate RECIPE {shlex.join(words)}"]
    lines += ["talk to it:", f"  {command_name()} chat {shlex.quote(str(made))}"]
    return "\n".join(lines)
