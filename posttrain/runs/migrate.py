"""Another tool's training settings -> a recipe that passes `posttrain check`, with comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.load import load_recipe
from posttrain.config.migrate import MigrateConfig
from posttrain.errors import ConfigError
from posttrain.files import write_text
from posttrain.logs import say
from posttrain.runs.old_settings import flatten
from posttrain.runs.rewrite import StageRewriter
from posttrain.runs.shell_arguments import read_flags

_SECTIONS = ("pretrain", "sft", "reward", "dpo", "ppo", "grpo")
_LLAMA_FACTORY = {"pt": "pretrain", "sft": "sft", "rm": "reward", "dpo": "dpo", "ppo": "ppo"}


def migrate_file(config: MigrateConfig) -> str:
    """Rewrite a file of settings; nothing is overwritten.

    Args:
        config: From what, to what.

    Returns:
        What was carried over and what was not, one line each, for the terminal.

    Raises:
        ConfigError: The old file cannot be read or holds no settings known here, or the new one
            exists.
    """
    if config.out.exists():
        raise ConfigError(f"{config.out}: exists already", hint="choose another out=FILE")
    old, dropped = _load_old(config.source)
    stages, why = _choose_stages(config, old)
    recipe: dict[str, Any] = {"name": config.name or _slug(config.out.stem)}
    comments: dict[tuple[str | int, ...], str] = {}
    carried = 0
    recipe["stages"] = []
    for number, stage in enumerate(stages):
        rewriter = StageRewriter(stage, number, recipe, comments, config)
        rewriter.rewrite(list(_settings_for(stage, stages, old)))
        carried += rewriter.carried
        dropped += [line for line in rewriter.dropped if line not in dropped]
    if not carried:
        raise ConfigError(
            f"{config.source}: holds no setting that is known here",
            hint="give a training YAML, of LLaMA-Factory or such, a script, or a DeepSpeed JSON",
        )
    for name in _SECTIONS:
        used = name in stages or (name, stages) == ("ppo", ["grpo"])
        if isinstance(old.get(name), dict) and not used:
            dropped.append((name, f"another kind of training; migrate again with stage={name}"))
    _settle_alpha(old, recipe, comments)
    recipe["stages"] = recipe.pop("stages")  # last, below what all stages share
    head = [
        f"# From {config.source.name} by posttrain migrate; {why}.",
        *(["# Not carried over:"] if dropped else []),
        *(f"#   {key}: {reason}" for key, reason in dropped),
    ]
    _publish(config.out, "\n".join([*head, *render(recipe, comments)]) + "\n")
    say(f"{config.source} -> {config.out}: {carried} settings, {len(dropped)} not carried over")
    return "\n".join([str(config.out), *(f"not carried over: {k}: {r}" for k, r in dropped)])


def _load_old(path: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Read the old settings, and note those of a script that only its shell knows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    if path.suffix in (".sh", ".bash") or text.startswith("#!"):
        return _load_script(path, text)
    try:
        old = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: not valid YAML") from error
    if not isinstance(old, dict):
        raise ConfigError(f"{path}: is no mapping of keys to values")
    if isinstance(old.get("stages"), list) and "model" in old:
        raise ConfigError(f"{path}: is a recipe already", hint="posttrain check looks for mistakes")
    return {str(key): value for key, value in old.items()}, []


def _load_script(path: Path, text: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    try:
        flags, unknown = read_flags(text)
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read as a shell script: {error}") from error
    return flags, [(name, f"`{value}` is known to the shell alone") for name, value in unknown]


def _choose_stages(config: MigrateConfig, old: dict[str, Any]) -> tuple[list[str], str]:
    """Tell which kinds of training the settings are of, and by what."""
    if config.stage:
        return [config.stage], f"stage={config.stage} was asked for"
    if "finetuning_type" in old or old.get("stage") in _LLAMA_FACTORY:
        written = old.get("stage", "sft")
        if written not in _LLAMA_FACTORY:
            raise ConfigError(
                f"{config.source}: `stage: {written}` is no kind of training here",
                hint=f"there are: {', '.join(_SECTIONS)}; say stage=KIND to use the other settings",
            )
        return [_LLAMA_FACTORY[written]], f"LLaMA-Factory's `stage: {written}`"
    names = {key.rpartition(".")[2] for key, _ in flatten(old)}
    own = [name for name in _SECTIONS[:4] if isinstance(old.get(name), dict)]
    if own:
        return own, f"by its sections {', '.join(own)}"
    if names & {"beta", "loss_type", "pref_beta", "pref_loss"}:
        return ["dpo"], "dpo, for it has beta or loss_type"
    if isinstance(old.get("ppo"), dict):
        group = int(old["ppo"].get("rollout_n") or 1) > 1
        kind = "grpo" if group else "ppo"
        return [kind], f"{kind}, for it has a section ppo, rollout_n {'above' if group else 'of'} 1"
    if names & {"block_size", "text_fields"} or "pretrain" in config.source.stem.lower():
        return ["pretrain"], "pretrain, for it cuts text into blocks"
    return ["sft"], "sft, for nothing says otherwise"


def _settings_for(stage: str, stages: list[str], old: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what all stages share, then the stage's own section, which wins."""
    own = "ppo" if stage == "grpo" and "grpo" not in old else stage
    shared = {k: v for k, v in old.items() if not (k in _SECTIONS and isinstance(v, dict))}
    yield from flatten(shared)
    if isinstance(old.get(own), dict):
        yield from flatten({own: old[own]})


def _settle_alpha(
    old: dict[str, Any], recipe: dict[str, Any], comments: dict[tuple[str | int, ...], str]
) -> None:
    """Write down LLaMA-Factory's scale of adapters where the file leaves it to its default."""
    lora = recipe.get("lora", {})
    if "finetuning_type" in old and "rank" in lora and "alpha" not in lora:
        lora["alpha"] = 2 * lora["rank"]
        comments["lora", "alpha"] = "LLaMA-Factory's default: twice the rank"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "migrated"


def _publish(out: Path, text: str) -> None:
    """Write the recipe once it has been read back without a mistake."""
    draft = out.with_name(f".{out.stem}.draft{out.suffix}")
    write_text(draft, text)
    try:
        load_recipe(draft)
        draft.replace(out)
    except ConfigError as error:
        named = str(error).replace(str(draft), str(out))
        raise ConfigError(f"these settings do not fit together here: {named}") from error
    finally:
        draft.unlink(missing_ok=True)


def render(
    values: dict[str, Any],
    comments: dict[tuple[str | int, ...], str],
    place: tuple[str | int, ...] = (),
) -> Iterator[str]:
    """Write nested settings as YAML lines, each with the comment of its place."""
    for key, value in values.items():
        here = (*place, key)
        note = f"  # {comments[here]}" if here in comments else ""
        if isinstance(value, dict) and value:
            yield f"{key}:{note}"
            yield from (f"  {line}" for line in render(value, comments, here))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{key}:{note}"
            for number, item in enumerate(value):
                for i, line in enumerate(render(item, comments, (*here, number))):
                    yield f"  {'- ' if i == 0 else '  '}{line}"
        else:
            shown = yaml.safe_dump(
                value, default_flow_style=True, allow_unicode=True, width=10**6
            ).removesuffix("...\n")
            yield f"{key}: {shown.strip()}{note}"
