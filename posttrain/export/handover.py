"""Does a model folder hold all that vLLM and transformers ask for? Looked up, nothing is run."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import VerificationError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_OTHERS_READ = 0o004


def check_served_by(folder: Path) -> list[str]:
    """Check a whole model's folder before it is handed to a server.

    Args:
        folder: With config, safetensors weights, tokenizer and generation config.

    Returns:
        A line for each thing that was looked at and is well.

    Raises:
        VerificationError: Names everything that is missing or wrong.
    """
    good: list[str] = []
    problems: list[str] = []
    for check in (_check_config, _check_weights, _check_tokenizer, _check_ends, _check_files):
        found = list(check(folder))
        problems += found
        if not found:
            good.append((check.__doc__ or "").rstrip("."))
    if problems:
        raise VerificationError(
            f"{folder}: not fit to be served: {'; '.join(problems)}",
            hint="make the folder again, or mend what is named",
        )
    return good


def _check_config(folder: Path) -> Iterator[str]:
    """The config names architecture, vocabulary and number format."""
    import transformers

    config = _load(folder / "config.json")
    names = config.get("architectures") or []
    if not names:
        yield "config.json names no architecture"
    for name in names:
        if not hasattr(transformers, name) and "auto_map" not in config:
            yield f"transformers does not know the architecture {name}"
    text = config.get("text_config") or config
    if not text.get("vocab_size"):
        yield "config.json has no vocab_size"
    if not (config.get("dtype") or config.get("torch_dtype")):
        yield "config.json names no dtype"


def _check_weights(folder: Path) -> Iterator[str]:
    """Every shard of the weights is there, whole, and in the config's number format."""
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if not files:
        yield "there is no safetensors file"
    held: dict[str, str] = {}
    dtypes: set[str] = set()
    for name in files:
        header = _load_header(folder / name)
        if header is None:
            yield f"{name} is damaged"
            continue
        held |= dict.fromkeys(header, name)
        dtypes |= {tensor["dtype"] for tensor in header.values()}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = _load(index).get("weight_map", {})
        if wrong := [tensor for tensor, name in listed.items() if held.get(tensor) != name]:
            yield f"{len(wrong)} weights of the index are not where it says, such as {wrong[0]}"
        if extra := held.keys() - listed.keys():
            yield f"{len(extra)} weights are not in the index, such as {min(extra)}"
    elif len(files) > 1:
        yield "the weights are in several files and have no index"
    config = _load(folder / "config.json")
    named = config.get("dtype") or config.get("torch_dtype")
    wanted = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}.get(str(named))
    if wanted and not config.get("quantization_config") and (other := dtypes - {wanted}):
        yield f"config.json says {named}, and there are weights in {', '.join(sorted(other))}"


def _load_header(path: Path) -> dict[str, Any] | None:
    """Read the list of tensors of a safetensors file; None where it is cut short."""
    with path.open("rb") as file:
        first = file.read(8)
        size = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        try:
            header: dict[str, Any] = json.loads(file.read(min(size, path.stat().st_size)))
            header.pop("__metadata__", None)
            end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
    return header if path.stat().st_size == 8 + size + end else None


def _check_tokenizer(folder: Path) -> Iterator[str]:
    """Tokenizer and chat template are there, and every token has an embedding."""
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        yield "there is no tokenizer"
        return
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # tokenizers raises bare exceptions
        yield f"the tokenizer cannot be read: {str(error).splitlines()[0]}"
        return
    if not tokenizer.chat_template:
        yield "there is no chat template, so /v1/chat/completions would fail"
    config = _load(folder / "config.json")
    rows = (config.get("text_config") or config).get("vocab_size") or 0
    if len(tokenizer) > rows:
        yield f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings"


def _check_ends(folder: Path) -> Iterator[str]:
    """The generation config ends answers where the tokenizer's end token stands."""
    path = folder / "generation_config.json"
    if not path.is_file():
        yield "there is no generation_config.json, so a server does not know where answers end"
        return
    ends = _load(path).get("eos_token_id")
    listed = ends if isinstance(ends, list) else [ends]
    if listed == [None]:
        yield "generation_config.json names no eos_token_id"
    rows = _load(folder / "config.json").get("vocab_size")
    if wrong := [e for e in listed if isinstance(e, int) and rows and e >= rows]:
        yield f"eos_token_id {wrong[0]} is beyond the vocabulary"


def _check_files(folder: Path) -> Iterator[str]:
    """Everybody may read the files, and none names a place on this machine."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.stat().st_mode & _OTHERS_READ:
            yield f"{path.name} is not readable by others, such as a server's user"
        if path.suffix == ".json" and path.name not in ("tokenizer.json", "MANIFEST.json"):
            yield from (f"{path.name} names the local path {p}" for p in _find_paths(_load(path)))


def _find_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _find_paths(item)
    elif isinstance(value, str) and os.path.isabs(value) and Path(value).exists():  # noqa: PTH117
        yield value


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def serve_command(folder: Path, name: str) -> str:
    """Write the command that serves a folder with vLLM, which lives in its own environment."""
    import shlex

    dtype = _load(folder / "config.json").get("dtype") or "auto"
    served = shlex.quote(str(folder))
    return f"vllm serve {served} --served-model-name {shlex.quote(name)} --dtype {dtype}"
