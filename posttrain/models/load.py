"""Built-in name, local folder or hub id -> tokenizer and model, with clear errors offline."""

from __future__ import annotations

import json
import logging
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.extras import require_extra
from posttrain.files import load_json
from posttrain.logs import quiet_libraries, say
from posttrain.models.lora import quiet_peft, settle_adapter
from posttrain.models.prefix_templates import read_template
from posttrain.models.tiny import BUILT_IN, ensure_tiny


@dataclass(frozen=True)
class Quantization:
    """Fewer bits for the weights of a model's layers; the output layer keeps its own.

    ``nf4`` has four: normal-float levels, and scales that are quantized as well. ``int8`` has
    eight; columns with outliers are multiplied in 16 bits.

    Source:
        Dettmers et al. 2023, arXiv:2305.14314, section 3; 2022, arXiv:2208.07339.
    """

    method: Literal["nf4", "int8"]
    device: str
    """Where the weights are packed and stay."""

    def loading_options(self, compute_dtype: str) -> dict[str, Any]:
        """Options of transformers' ``from_pretrained``.

        Args:
            compute_dtype: In which nf4 weights are multiplied, such as ``float32``.
        """
        from transformers import BitsAndBytesConfig

        if self.method == "int8":
            settings = BitsAndBytesConfig(load_in_8bit=True)
        else:
            settings = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=compute_dtype,
            )
        return {"quantization_config": settings, "device_map": {"": self.device}}


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
    settle_offline()
    return name


def settle_offline() -> None:
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
        ConfigError: The template file cannot be read, or is no template.
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
        tokenizer.chat_template = read_template(config.chat_template)
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


def load_base_config(config: ModelConfig) -> Any:
    """Load a model's configuration; of an adapter's folder, that of its base model.

    Raises:
        CheckpointError: It cannot be found or read.
    """
    place = Path(find_model(config.path))
    if is_adapter(place):
        config = config.model_copy(update={"path": find_base(place)})
    return load_model_config(config)


def load_model(
    config: ModelConfig,
    *,
    attention: str,
    dtype: str,
    prepare: Callable[[Any], None] | None = None,
    train_adapter: bool = False,
    quantization: Quantization | None = None,
    head: str = "CausalLM",
) -> Any:
    """Load a model; an adapter folder brings its base model by itself.

    Folders that ``posttrain quantize`` has made load too; weights of a GGUF file are unpacked.

    Args:
        config: The recipe's model.
        attention: An attention implementation known to transformers.
        dtype: Of the weights, such as ``float32``.
        prepare: Called with the model itself, before an adapter is put around it.
        train_adapter: Whether an adapter found in the folder shall be trainable.
        quantization: How to hold the layers' weights; embeddings and output layer keep ``dtype``.
        head: What the model has on top: ``CausalLM``, ``MaskedLM`` or ``SequenceClassification``.

    Returns:
        The model on the CPU or the quantization's device, in evaluation mode.

    Raises:
        CheckpointError: It cannot be found or read, or weights are missing.
        MissingExtraError: Its format needs a package that is not installed.
        ConfigError: It is quantized already, and ``quantization`` asks for it again.
    """
    place = Path(find_model(config.path))
    adapter = place / "adapter_config.json"
    base = config
    if adapter.is_file():
        base = config.model_copy(update={"path": find_base(place)})
        if head == "CausalLM" and load_json(adapter).get("task_type") == "SEQ_CLS":
            raise _explain_scores(config.path)
    model = _load_plain(base, head, attention=attention, dtype=dtype, quantization=quantization)
    if prepare:
        prepare(model)
    if adapter.is_file():
        model = load_adapter(model, place, trainable=train_adapter)
    return model.eval()


def is_adapter(place: str | Path) -> bool:
    """Whether a folder holds an adapter instead of a whole model."""
    return (Path(place) / "adapter_config.json").is_file()


def find_base(place: Path) -> str:
    """Name the model that an adapter belongs to.

    Args:
        place: The adapter's folder.

    Raises:
        CheckpointError: The folder does not say.
    """
    adapter = place / "adapter_config.json"
    try:
        name = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{adapter}: does not name its base model", hint="the folder is incomplete or damaged"
        )
    return name


def load_adapter(model: Any, place: Path, *, trainable: bool = False) -> Any:
    """Put a folder's adapter around a model; a part of it would be no adapter.

    Args:
        model: The adapter's base model.
        place: The adapter's folder.
        trainable: Whether to train it on.

    Returns:
        The peft model.

    Raises:
        CheckpointError: It cannot be read or does not fit.
    """
    import peft

    try:
        with quiet_peft():
            # peft only warns of missing weights and would go on with fresh ones.
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            loaded = peft.PeftModel.from_pretrained(model, str(place), is_trainable=trainable)
    except Exception as error:  # safetensors, json, peft and shape errors share no base class
        raise _explain(str(place), "adapter", error) from error
    settle_adapter(loaded)
    return loaded


def _load_plain(
    config: ModelConfig,
    head: str,
    *,
    attention: str,
    dtype: str,
    quantization: Quantization | None,
) -> Any:
    import transformers

    place = find_model(config.path)
    settings: dict[str, Any] = {"use_safetensors": True}
    if packed := find_gguf(place):
        require_extra("gguf", "gguf")
        # transformers derives a config from the file and gets head sizes wrong; ours is beside it.
        settings = {"gguf_file": packed.name, "config": load_model_config(config)}
    kinds = load_model_config(config).architectures or [""]
    if head == "CausalLM" and kinds[0].endswith("ForSequenceClassification"):
        raise _explain_scores(config.path)
    stored = find_quantization(config)
    if stored and quantization:
        raise ConfigError(
            f"model {config.path}: is quantized already ({stored})",
            hint="start from the model before quantization; to train adapters on it as it is, set "
            "tuning=lora",
        )
    if stored == "bitsandbytes" or quantization:
        require_extra("bitsandbytes", "quantize")
        _quiet_bitsandbytes()
    if quantization:
        settings |= quantization.loading_options(dtype)
    try:
        model, loading = getattr(transformers, f"AutoModelFor{head}").from_pretrained(
            place,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            # Unasked, transformers takes sdpa too, and its plain code where a model has no other.
            attn_implementation=None if attention == "sdpa" else attention,
            dtype=dtype,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # safetensors, json and hub errors share no base class
        raise _explain(config.path, "model", error) from error
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"model {config.path}: {len(missing)} weights are missing, such as {missing[0]}",
            hint="the folder is incomplete or of another architecture",
        )
    return model


def find_gguf(place: str | Path) -> Path | None:
    """Find the GGUF file of a folder that holds its weights so and not otherwise."""
    folder = Path(place)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return None
    return next(iter(sorted(folder.glob("*.gguf"))), None)


def find_quantization(config: ModelConfig) -> str | None:
    """Name the library by which a stored model is quantized, or None for one that is not.

    Raises:
        CheckpointError: The model cannot be found or read.
    """
    stored = getattr(load_model_config(config), "quantization_config", None)
    if stored is None:
        return None
    fields = stored if isinstance(stored, dict) else stored.to_dict()
    return str(fields.get("quant_method") or "unknown")


def _quiet_bitsandbytes() -> None:
    # One line for each layer and call: that int8 products round their inputs to fp16 is its design.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _explain_scores(name: str) -> CheckpointError:
    """Say so at once: transformers and peft would leave a reward model's head away and go on."""
    return CheckpointError(
        f"model {name}: scores texts and writes none",
        hint="give a language model, such as the one that it was trained from",
    )


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
