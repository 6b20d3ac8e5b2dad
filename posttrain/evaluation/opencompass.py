"""A model as an entry of OpenCompass's ``models``: a Python file that it reads, nothing is run.

Source:
    OpenCompass 0.5.4: the constructors in ``opencompass/models`` and ``utils/run.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.config.opencompass import OpencompassConfig
from posttrain.errors import ConfigError
from posttrain.files import load_json, write_text
from posttrain.models.load import find_base, find_gguf, find_model, is_adapter, load_tokenizer

# Engine -> class with a chat template, class for plain text.
_CLASSES = {
    "transformers": ("HuggingFacewithChatTemplate", "HuggingFaceBaseModel"),
    "vllm": ("VLLMwithChatTemplate", "VLLM"),
    "lmdeploy": ("TurboMindModelwithChatTemplate", "TurboMindModel"),
    "openai": ("OpenAISDK", "OpenAISDK"),
}
# What of an adapter vLLM cannot load.
_BEYOND_VLLM = ("modules_to_save", "trainable_token_indices", "use_dora", "rank_pattern")
# OpenCompass's parser of turns for an API.
_TURNS = {
    "round": [
        {"role": "HUMAN", "api_role": "HUMAN"},
        {"role": "BOT", "api_role": "BOT", "generate": True},
    ],
    "reserved_roles": [{"role": "SYSTEM", "api_role": "SYSTEM"}],
}


def write_opencompass(
    config: OpencompassConfig, model: ModelConfig, folder: Path, *, name: str, typed: str
) -> Path:
    """Write the file that OpenCompass finds by ``--config-dir FOLDER --models NAME``.

    Args:
        config: How it shall compute.
        model: The model; an adapter's folder brings its base.
        folder: Gets ``models/NAME.py``.
        name: What the model is called in OpenCompass's tables.
        typed: What a server calls it unless the settings say so.

    Returns:
        The file.

    Raises:
        ConfigError: The engine cannot load this model.
        CheckpointError: The model cannot be found or read.
    """
    label = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    entry = build_entry(config, model, name=label, typed=typed)
    lines = [
        f"# opencompass --config-dir {folder} --models {label} --datasets DATASETS",
        f"from opencompass.models import {entry['type']}",
        "",
        "models = [",
        "    dict(",
        f"        type={entry.pop('type')},",
        *(f"        {key}={value!r}," for key, value in entry.items()),
        "    )",
        "]",
    ]
    path = folder / "models" / f"{label}.py"
    write_text(path, "\n".join(lines) + "\n")
    return path


def build_entry(
    config: OpencompassConfig, model: ModelConfig, *, name: str, typed: str
) -> dict[str, Any]:
    """Build the entry; ``type`` is the class by its name.

    Args:
        config: How OpenCompass shall compute.
        model: The model.
        name: Its ``abbr``.
        typed: What a server calls it unless the settings say so.

    Raises:
        ConfigError, CheckpointError: As of ``write_opencompass``.
    """
    tokenizer = load_tokenizer(model)
    chat = config.chat_template
    if chat and not tokenizer.chat_template:
        raise ConfigError(
            f"model {model.path}: its tokenizer has no chat template",
            hint="set opencompass.chat_template=false",
        )
    chat = bool(tokenizer.chat_template) if chat is None else chat
    place = find_model(model.path)
    words = _absolute(model.tokenizer or place)
    if config.engine == "openai":
        fields = dict(_describe_server(config, words, typed))
    else:
        _check_engine(config, place)
        fields = dict(_describe_model(config, place, words))
    longest = {} if config.max_tokens is None else {"max_seq_len": config.max_tokens}
    return {
        "type": _CLASSES[config.engine][0 if chat else 1],
        "abbr": name,
        **fields,
        **longest,
        "max_out_len": config.max_new_tokens,
        "batch_size": config.batch_size,
        "run_cfg": {"num_gpus": 0 if config.engine == "openai" else config.gpus},
    }


def _absolute(place: str) -> str:
    """OpenCompass is started elsewhere; a hub id stays as it is."""
    return str(Path(place).resolve()) if Path(place).is_dir() else place


def _check_engine(config: OpencompassConfig, place: str) -> None:
    merge = "merge it first (posttrain merge), or set opencompass.engine=transformers"
    if find_gguf(place):
        raise ConfigError(
            f"model {place}: OpenCompass reads no GGUF",
            hint="serve it, and set opencompass.engine=openai",
        )
    if not is_adapter(place):
        return
    if config.engine == "lmdeploy":
        raise ConfigError(
            f"model {place}: is an adapter, which `lmdeploy` does not load", hint=merge
        )
    settings = load_json(Path(place) / "adapter_config.json")
    beyond = [key for key in _BEYOND_VLLM if settings.get(key)]
    if config.engine == "vllm" and beyond:
        raise ConfigError(f"adapter {place}: `vllm` does not load its `{beyond[0]}`", hint=merge)


def _describe_model(config: OpencompassConfig, place: str, words: str) -> Iterator[tuple[str, Any]]:
    adapter = _absolute(place) if is_adapter(place) else None
    path = _absolute(find_model(find_base(Path(place)))) if adapter else _absolute(place)
    yield "path", path
    if config.engine == "transformers":
        yield "tokenizer_path", words
        if adapter:
            yield "peft_path", adapter
        yield "model_kwargs", {"device_map": "auto", "torch_dtype": "auto"}
        yield "generation_kwargs", {"do_sample": False}
    elif config.engine == "vllm":
        more: dict[str, Any] = {"tensor_parallel_size": max(config.gpus, 1), "tokenizer": words}
        if adapter:
            yield "lora_path", adapter
            rank = load_json(Path(adapter) / "adapter_config.json")["r"]
            more |= {"enable_lora": True, "max_lora_rank": rank}
        yield "model_kwargs", more
        yield "generation_kwargs", {"temperature": 0}
    else:
        engine = {"max_batch_size": config.batch_size, "tp": max(config.gpus, 1)}
        if config.max_tokens is not None:
            engine["session_len"] = config.max_tokens
        yield "engine_config", engine
        yield "gen_config", {"do_sample": False, "max_new_tokens": config.max_new_tokens}


def _describe_server(
    config: OpencompassConfig, words: str, typed: str
) -> Iterator[tuple[str, Any]]:
    yield "path", config.served_name or typed
    yield "openai_api_base", config.url
    yield "key", "ENV"
    yield "tokenizer_path", words
    yield "temperature", 0
    yield "query_per_second", config.batch_size
    yield "max_workers", config.batch_size
    yield "retry", 3
    yield "meta_template", _TURNS
