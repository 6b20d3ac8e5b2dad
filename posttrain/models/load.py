"""Built-in name, local folder or hub id -> tokenizer and model, with clear errors offline."""

from __future__ import annotations

import json
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.logs import quiet_libraries, say
from posttrain.models.lora import quiet_peft
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
            hint=f"give a model folder, a hub id like Qwen/Qwen3-0.6B, or {' or '.join(BUILT_IN)}",
        )
    _settle_offline()
    return name


def _settle_offline() -> None:
    """Without a network, look only into the local hub cache: the hub's own retries take 25 s."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or urllib.request.getproxies():
        return
    endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=5).close()
    except OSError:
        say(f"{constants.ENDPOINT} cannot be reached; looking into the local hub cache only")
        constants.HF_HUB_OFFLINE = True


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
    except Exception as error:  # tokenizers raises bare exceptions
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
    except Exception as error:  # whatever a broken config.json leads to
        raise _explain(config.path, "model", error) from error


def load_model(
    config: ModelConfig,
    *,
    attention: str,
    dtype: str,
    prepare: Callable[[Any], None] | None = None,
    train_adapter: bool = False,
) -> Any:
    """Load a causal language model; an adapter folder brings its base model by itself.

    Args:
        config: The recipe's model.
        attention: An attention implementation known to transformers.
        dtype: Of the weights, such as ``float32``.
        prepare: Called with the model itself, before an adapter is put around it.
        train_adapter: Whether an adapter found in the folder shall be trainable.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        CheckpointError: It cannot be found or read, or weights are missing.
    """
    place = Path(find_model(config.path))
    adapter = place / "adapter_config.json"
    base = config
    if adapter.is_file():
        base = config.model_copy(update={"path": _find_base(adapter)})
    model = _load_plain(base, attention=attention, dtype=dtype)
    if prepare:
        prepare(model)
    if adapter.is_file():
        model = _load_adapter(model, place, trainable=train_adapter)
    return model.eval()


def _find_base(adapter: Path) -> str:
    """Name of the model that an adapter belongs to."""
    try:
        name = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{adapter}: does not name its base model", hint="the folder is incomplete or damaged"
        )
    return name


def _load_adapter(model: Any, place: Path, *, trainable: bool) -> Any:
    """Put the folder's adapter around a model; a part of it would be no adapter."""
    import peft

    try:
        with quiet_peft():
            # peft only warns of missing weights and would go on with fresh ones.
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            return peft.PeftModel.from_pretrained(model, str(place), is_trainable=trainable)
    except Exception as error:  # safetensors, json, peft and shape errors share no base class
        raise _explain(str(place), "adapter", error) from error


def _load_plain(config: ModelConfig, *, attention: str, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    place = find_model(config.path)
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
        raise _explain(config.path, "model", error) from error
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"model {config.path}: {len(missing)} weights are missing, such as {missing[0]}",
            hint="the folder is incomplete or of another architecture",
        )
    return model


def _explain(name: str, what: str, error: Exception) -> CheckpointError:
    """One line for the many ways in which loading fails."""
    if Path(name).is_dir() or name in BUILT_IN:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return CheckpointError(
            f"{what} {name}: cannot be read: {reason}", hint="the folder is incomplete or damaged"
        )
    return CheckpointError(
        f"{what} {name}: not a local folder, and the hub cannot be reached or has no such {what}",
        hint="copy the model here and give its folder, or set HF_HUB_CACHE to a filled cache",
    )
