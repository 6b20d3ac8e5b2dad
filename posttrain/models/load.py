"""Built-in name, local folder or hub id -> tokenizer and model, with clear errors offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.logs import quiet_libraries
from posttrain.models.tiny import BUILT_IN, ensure_tiny


def find_model(name: str) -> str:
    """Turn a model name into what transformers can load.

    Args:
        name: ``tiny``, ``tiny-wide``, a local folder, or a hub id.

    Returns:
        A folder or a hub id.

    Raises:
        CheckpointError: It looks like a local folder and is none.
    """
    quiet_libraries()
    if name in BUILT_IN:
        return str(ensure_tiny(name))
    path = Path(name)
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"model {name}: no such folder",
            hint=f"give a model folder, a hub id such as Qwen/Qwen3-0.6B, or {' or '.join(BUILT_IN)}",
        )
    return name


def load_tokenizer(config: ModelConfig) -> Any:
    """Load the tokenizer, with the recipe's chat template where it names one.

    Args:
        config: The recipe's model.

    Returns:
        A transformers tokenizer.

    Raises:
        CheckpointError: It cannot be found or read.
        ConfigError: The template file cannot be read.
    """
    from transformers import AutoTokenizer

    name = config.tokenizer or config.path
    place = find_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise _explain(name, "tokenizer", error) from error
    if config.chat_template:
        try:
            tokenizer.chat_template = config.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"model.chat_template {config.chat_template}: {error}") from error
    return tokenizer


def load_model_config(config: ModelConfig) -> Any:
    """Load only the model's configuration.

    Raises:
        CheckpointError: It cannot be found or read.
    """
    from transformers import AutoConfig

    place = find_model(config.path)
    try:
        return AutoConfig.from_pretrained(
            place, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise _explain(config.path, "model", error) from error


def load_model(config: ModelConfig, *, attention: str, dtype: str) -> Any:
    """Load a causal language model; adapters saved in the folder are put on.

    Args:
        config: The recipe's model.
        attention: An attention implementation known to transformers.
        dtype: Of the weights, such as ``float32``.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: It cannot be found or read, or weights are missing.
    """
    from transformers import AutoModelForCausalLM

    name = config.path
    place = find_model(name)
    adapter = Path(place) / "adapter_config.json"
    if adapter.is_file():
        return _load_adapted(config, adapter, attention=attention, dtype=dtype)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            place,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            attn_implementation=attention,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # safetensors, json and hub errors share no base class
        raise _explain(name, "model", error) from error
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"model {name}: {len(missing)} weights are missing, such as {missing[0]}",
            hint="the folder is incomplete or of another architecture",
        )
    return model.eval()


def _load_adapted(config: ModelConfig, adapter: Path, *, attention: str, dtype: str) -> Any:
    """Load the base model that an adapter folder names, then the adapter."""
    import peft

    base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise CheckpointError(f"{adapter}: does not name its base model")
    plain = config.model_copy(update={"path": base})
    model = load_model(plain, attention=attention, dtype=dtype)
    return peft.PeftModel.from_pretrained(model, str(adapter.parent)).eval()


def _explain(name: str, what: str, error: Exception) -> CheckpointError:
    """One line for the many ways in which loading fails."""
    if Path(name).is_dir() or name in BUILT_IN:
        reason = str(error).strip().splitlines()[0]
        return CheckpointError(
            f"{what} {name}: cannot be read: {reason}", hint="the folder is incomplete or damaged"
        )
    return CheckpointError(
        f"{what} {name}: not a local folder, and the hub cannot be reached or has no such {what}",
        hint="copy the model here and give its folder, or set HF_HUB_CACHE to a filled cache",
    )
