"""Merge and quantize from the command line: which model is meant, and where the result goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config.export import MergeConfig, QuantizeConfig
from posttrain.config.model import ModelConfig
from posttrain.errors import ConfigError
from posttrain.logs import format_bytes, say, show
from posttrain.runs.find import find_latest_model


def merge_model(config: MergeConfig) -> Path:
    """Merge an adapter into its base model.

    Args:
        config: As typed.

    Returns:
        The merged model's folder.

    Raises:
        PosttrainError: See ``export.merge.merge_adapter``.
    """
    from posttrain.export.merge import check_mergeable, merge_adapter

    source = ModelConfig(
        path=find_latest_model(config.model), trust_remote_code=config.trust_remote_code
    )
    check_mergeable(source)
    out = config.out or _beside(source.path, "merged")
    result = merge_adapter(
        source, out, config, base=config.base, device=_settle_device(config.device)
    )
    say(f"merged model: {out} ({format_bytes(result['weight_bytes'])} in {result['dtype']})")
    show_handover(out, _served_name(out))
    return out


def show_handover(folder: Path, name: str) -> None:
    """Say what of a model's folder was looked at, and how to serve it.

    Args:
        folder: A whole model.
        name: What clients shall call it.

    Raises:
        VerificationError: It is not fit to be served.
    """
    from posttrain.export.handover import check_served_by, serve_command

    for line in check_served_by(folder):
        say(f"hand-over: {line}")
    show(f"serve it:       {serve_command(folder, name)}")


def quantize(config: QuantizeConfig) -> Path:
    """Make a model smaller and show what that costs.

    Args:
        config: As typed.

    Returns:
        The smaller model's folder.

    Raises:
        PosttrainError: See ``export.quantize.quantize_model``.
    """
    from posttrain.export.quantize import check_method, quantize_model

    check_method(config)
    source = ModelConfig(
        path=find_latest_model(config.model), trust_remote_code=config.trust_remote_code
    )
    out = config.out or _beside(source.path, config.method)
    result = quantize_model(source, out, config, device=_settle_device(config.device))
    show(render_quantization(result))
    say(f"quantized model: {out}")
    return out


def render_quantization(result: dict[str, Any]) -> str:
    """Write size and loss before and after as a table.

    Args:
        result: As ``quantization.json`` holds it.
    """
    from posttrain.reports.terminal import build_table, to_text

    found = result["agreement"]
    table = build_table("", "before", "after", "change")
    before, after = result["weight_bytes_before"], result["weight_bytes"]
    table.add_row(
        f"weights ({result['dtype']} to {result['method']})",
        format_bytes(before),
        format_bytes(after),
        f"{after / before - 1:+.1%}",
    )
    table.add_row(
        f"loss on {result['scored_tokens']:,} tokens (nats)",
        f"{found['loss_before']:.4f}",
        f"{found['loss_after']:.4f}",
        f"{result['loss_increase']:+.4f}",
    )
    return to_text(
        table,
        f"Logits differ by {found['relative_difference']:.2%} (largest "
        f"{found['max_difference']:.2f}); top token agrees {found['top1_agreement']:.2%}; "
        f"KL {found['kl']:.4f} nats.",
        f"{result['bits_per_weight']:.2f} bits per weight, embeddings included.",
    )


def _beside(model: str, name: str) -> Path:
    """Where a result goes if nobody says: a run's stage keeps it beside its ``final``."""
    place = Path(model)
    if place.name in ("final", "merged"):
        return place.parent / name
    if place.is_dir():
        return place.resolve().with_name(f"{place.resolve().name}-{name}")
    return Path(f"{model.rpartition('/')[2]}-{name}")  # a hub id or a built-in name


def _served_name(out: Path) -> str:
    """A run's name for its models, or the folder's own."""
    return out.resolve().parent.parent.name if out.name == "merged" else out.name


def _settle_device(device: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda, but torch finds no CUDA device here", hint="leave it out")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
