"""Fewer bits for each weight, and the price measured before the result appears under its name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from posttrain.checkpoints import write_manifest
from posttrain.config.data import ChatDataConfig, DataConfig, SplitConfig, TextDataConfig
from posttrain.config.export import MergeSettings, QuantizeSettings
from posttrain.config.model import ModelConfig
from posttrain.data.prepare import prepare_data
from posttrain.data.sources import check_source, is_text_file
from posttrain.errors import ConfigError, DataError, VerificationError
from posttrain.export.gguf import find_converter, write_gguf
from posttrain.export.merge import find_dtype, merge_adapter
from posttrain.export.publish import digest_model, is_published, weight_bytes, write_model
from posttrain.export.verify import SAMPLE_TEXT, ScoredText, compare_logits, find_logits
from posttrain.files import digest_file, digest_json, load_json, publish_folder, write_json
from posttrain.logs import say
from posttrain.models.load import (
    Quantization,
    find_model,
    find_quantization,
    is_adapter,
    load_model,
    load_tokenizer,
)
from posttrain.models.trained_template import find_trained_template, write_trained_template
from posttrain.runtime import require_extra

_WINDOW_TOKENS = 512


def quantize_model(
    source: ModelConfig, out: Path, settings: QuantizeSettings, *, device: str = "cpu"
) -> dict[str, Any]:
    """Quantize a model, measure what that costs, and publish the result.

    Args:
        source: The model; an adapter is merged first.
        out: Folder of the smaller model; one that holds this very result is left as it is.
        settings: Method, data to measure on, and the most that the loss may rise.
        device: Where to compute.

    Returns:
        What ``quantization.json`` holds.

    Raises:
        ConfigError: The model is quantized already, or ``out`` is taken.
        CheckpointError: The model is missing or damaged, or its tokenizer unknown to llama.cpp.
        MissingExtraError: bitsandbytes, or llama.cpp's converter, is not installed.
        VerificationError: The loss rises by more than the settings allow; nothing is written.
    """
    check_method(settings)
    place = find_model(source.path)
    inputs = {
        "model": digest_model(place),
        "revision": source.revision,
        "tokenizer": digest_model(source.tokenizer) if source.tokenizer else None,
        "data": _digest_data(settings),
        "settings": settings.model_dump(
            mode="json", include={"method", "dtype", "gguf_type", "max_tokens"}
        ),
    }
    digest = digest_json(inputs)
    if is_published(out, digest):
        say(f"{out}: is this very result already; not made again")
        result: dict[str, Any] = load_json(out / "quantization.json")
        _check_price(result, settings)
        return result
    if is_adapter(place):
        return _merge_first(source, out, settings, device, digest)
    return _quantize_whole(source, out, settings, device, digest)


def check_method(settings: QuantizeSettings) -> None:
    """Look for what a method needs, before a model is loaded.

    Raises:
        MissingExtraError: It is not installed.
    """
    if settings.method == "gguf":
        find_converter(settings.llama_cpp_converter)
        require_extra("gguf", "gguf")
    else:
        require_extra("bitsandbytes", "quantize")


def _merge_first(
    source: ModelConfig, out: Path, settings: QuantizeSettings, device: str, digest: str
) -> dict[str, Any]:
    # On the disk of the result: /tmp is often small, or memory.
    merged = out.with_name(f".{out.name}-merged")
    shutil.rmtree(merged, ignore_errors=True)  # of a killed attempt
    try:
        merge_adapter(source, merged, MergeSettings(dtype=settings.dtype), device=device)
        update = {"path": str(merged), "tokenizer": None, "revision": None}
        whole = source.model_copy(update=update)
        return _quantize_whole(whole, out, settings, device, digest)
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def _quantize_whole(
    source: ModelConfig, out: Path, settings: QuantizeSettings, device: str, digest: str
) -> dict[str, Any]:
    if library := find_quantization(source):
        raise ConfigError(
            f"model {source.path}: is quantized already ({library})",
            hint="give the model before quantization",
        )
    dtype = settings.dtype if settings.dtype != "auto" else find_dtype(source)
    tokenizer = load_tokenizer(source)
    texts = _load_texts(settings, tokenizer)
    original = load_model(source, attention="sdpa", dtype="float32").to(device)
    size_before = _count_bytes(original, dtype)
    with publish_folder(out) as folder:
        if settings.method == "gguf":
            plain = load_model(source, attention="sdpa", dtype=dtype)
            write_gguf(plain, tokenizer, folder, settings)
        else:
            quantization = Quantization(settings.method, device)
            packed = load_model(source, attention="sdpa", dtype=dtype, quantization=quantization)
            write_model(packed, tokenizer, folder)
        written = ModelConfig(path=str(folder), trust_remote_code=source.trust_remote_code)
        smaller = load_model(written, attention="sdpa", dtype="float32").to(device)
        found = compare_logits(texts, find_logits(original, texts), find_logits(smaller, texts))
        size = weight_bytes(folder)
        result = {
            "method": settings.gguf_type if settings.method == "gguf" else settings.method,
            "dtype": dtype,
            "weight_bytes_before": size_before,
            "weight_bytes": size,
            "bits_per_weight": 8 * size / sum(p.numel() for p in original.parameters()),
            "scored_tokens": sum(sum(text.scored[1:]) for text in texts),
            "loss_increase": found.loss_increase,
            "agreement": asdict(found),
        }
        _check_price(result, settings)
        write_json(folder / "quantization.json", result)
        write_trained_template(folder, find_trained_template(source.path))
        write_manifest(folder, {"made_by": "posttrain quantize", "inputs": digest})
    return result


def _count_bytes(model: Any, dtype: str) -> int:
    """Size of the weights in a number format; tied ones count once."""
    return getattr(torch, dtype).itemsize * sum(p.numel() for p in model.parameters())


def _check_price(result: dict[str, Any], settings: QuantizeSettings) -> None:
    increase = result["loss_increase"]
    if not increase <= settings.max_loss_increase:  # also where it is not a number
        raise VerificationError(
            f"{result['method']} raises the loss by {increase:.2g} nats per token, from "
            f"{result['agreement']['loss_before']:.4f} to {result['agreement']['loss_after']:.4f}; "
            f"max_loss_increase is {settings.max_loss_increase}; nothing was written",
            hint="choose method=int8, or allow more with max_loss_increase=",
        )


def _digest_data(settings: QuantizeSettings) -> Any:
    if settings.data is None or settings.data.path is None:
        return None
    files = [file.path for file in check_source(settings.data) if file.path]
    return [(path.suffix, digest_file(path)) for path in files]


def _load_texts(settings: QuantizeSettings, tokenizer: Any) -> list[ScoredText]:
    """Encode the text to measure on; the assistant's turns of conversations count, all of text."""
    if settings.data is None:
        ids = list(tokenizer(SAMPLE_TEXT)["input_ids"])
        return [ScoredText(part, [True] * len(part)) for part in _windows(ids)]
    assert settings.data.path is not None
    config: DataConfig
    if all(map(is_text_file, check_source(settings.data))):
        config = TextDataConfig(
            sources=(settings.data,), split=SplitConfig(), block_tokens=_WINDOW_TOKENS
        )
    else:
        config = ChatDataConfig(sources=(settings.data,), split=SplitConfig())
    store = prepare_data(config, tokenizer).train
    texts: list[ScoredText] = []
    budget = settings.max_tokens
    for index in range(len(store)):
        token_ids, weights = store.example(index)
        budget -= len(token_ids)
        if texts and budget < 0:
            break
        texts.append(ScoredText(token_ids.tolist(), (weights != 0).tolist()))
    if not sum(sum(text.scored[1:]) for text in texts):
        raise DataError(f"{settings.data.path}: no token to measure the loss on")
    return texts


def _windows(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _WINDOW_TOKENS):
        if len(part := ids[start : start + _WINDOW_TOKENS]) > 1:
            yield part
