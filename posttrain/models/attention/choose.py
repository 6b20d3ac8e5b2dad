"""Which back end a model computes with on this machine, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from posttrain.errors import ConfigError, MissingExtraError
from posttrain.models.attention import BACK_ENDS, registered_name
from posttrain.models.attention.flash import find_kernel
from posttrain.models.attention.probe import find_error
from posttrain.models.packing import find_packing_obstacle

INSTALL = {
    "flash_attention_2": "pip install flash-attn --no-build-isolation",
    "flash_attention_3": (
        "pip install --no-build-isolation "
        "'git+https://github.com/Dao-AILab/flash-attention.git#subdirectory=hopper'"
    ),
}
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# Largest head that the kernels take, and of what its size must be a multiple.
_LARGEST_HEAD, _HEAD_STEP = 256, 8


@dataclass(frozen=True)
class Needs:
    """What is asked of a back end."""

    device: str
    dtype: str = "float32"
    """Of the arithmetic."""
    head_size: int = 64
    softcap: bool = False
    """Whether scores are bent, as by Gemma 2."""
    dropout: bool = False
    """Whether attention weights are dropped in training."""


@dataclass(frozen=True)
class Obstacle:
    """Why a back end cannot be used."""

    reason: str
    hint: str
    missing: bool = False
    """Whether a package that is not installed is all that is wrong."""


@dataclass(frozen=True)
class Attention:
    """How a model's layers attend."""

    back_end: str
    reason: str
    padded: str | None = None
    """Why texts lie in padded rows instead of side by side; None where they need not."""

    @property
    def name(self) -> str:
        """What transformers calls it."""
        return self.back_end if self.padded else registered_name(self.back_end)

    def __str__(self) -> str:
        if not self.padded:
            return f"packed, {self.back_end} ({self.reason})"
        return f"padded, transformers' own {self.back_end}: {self.padded}; slower than packed"


def settle_attention(wanted: str, config: Any, *, device: str, precision: str) -> Attention:
    """Settle how a model attends.

    Args:
        wanted: ``model.attention``.
        config: The model's transformers config.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ConfigError: The wish cannot be met.
        MissingExtraError: Its package is not installed.
    """
    if obstacle := find_packing_obstacle(config):
        return _settle_padded(wanted, config, obstacle)
    return settle_packed(wanted, read_needs(config, device, precision))


def settle_packed(wanted: str, needs: Needs) -> Attention:
    """Settle the back end of a packed batch; as ``settle_attention``."""
    if wanted != "auto":
        if obstacle := find_obstacle(wanted, needs):
            kind = MissingExtraError if obstacle.missing else ConfigError
            raise kind(f"model.attention: {wanted} {obstacle.reason}", hint=obstacle.hint)
        return Attention(wanted, f"as the recipe says{_describe_kernel(wanted)}")
    refused = []
    for name in BACK_ENDS:
        if needs.device == "cpu" and name not in ("sdpa", "eager"):
            continue  # nobody expects them there
        if obstacle := find_obstacle(name, needs):
            refused.append(f"{name} {obstacle.reason}")
        else:
            return Attention(name, "; ".join([_PRAISE[name] + _describe_kernel(name), *refused]))
    raise AssertionError("eager works everywhere")


_PRAISE = {
    "flash_attention_3": "the fastest here",
    "flash_attention_2": "the fastest here",
    "flex": "the fastest here",
    "sdpa": "torch's fused kernel over groups of segments",
    "eager": "all pairs of tokens, slow and large",
}


def _describe_kernel(name: str) -> str:
    if not name.startswith("flash_attention_"):
        return ""
    kernel = find_kernel(int(name[-1]))
    return f", kernel of {kernel.origin}" if kernel else ""


def read_needs(config: Any, device: str, precision: str) -> Needs:
    """What a model asks of its attention.

    Args:
        config: Its transformers config.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Needs(
        device,
        _DTYPES[precision],
        size,
        softcap=bool(getattr(text, "attn_logit_softcapping", None)),
        dropout=any(
            getattr(text, field, None)
            for field in ("attention_dropout", "attention_probs_dropout_prob")
        ),
    )


def find_obstacle(name: str, needs: Needs) -> Obstacle | None:
    """Say why a back end cannot be used here, or None.

    On a GPU every one but the plainest two is run once on a small problem and compared.
    """
    if lack := find_lack(name, needs):
        return lack
    if name not in ("eager", "sdpa") and (
        error := find_error(name, needs.device, needs.dtype, needs.head_size)
    ):
        return Obstacle(error, "run `posttrain doctor --attention`; set model.attention=auto")
    return None


def find_lack(name: str, needs: Needs) -> Obstacle | None:
    """Say what a back end would need that is not here, or None; nothing is run."""
    if name in ("sdpa", "eager"):
        return None
    if needs.device == "cpu":
        if name == "flex":
            return Obstacle("has no backward pass on a CPU", _OTHERS)
        return Obstacle("needs a CUDA GPU, and this runs on the CPU", _OTHERS)
    if name == "flex":
        return _NO_DROPOUT if needs.dropout else None
    return _find_flash_lack(name, needs)


_OTHERS = "set model.attention to auto, sdpa or eager"
_NO_SOFTCAP = Obstacle("cannot bend scores (soft-capping), as this model does", _OTHERS)
_NO_DROPOUT = Obstacle("cannot drop attention weights, as this model does", _OTHERS)


def _find_flash_lack(name: str, needs: Needs) -> Obstacle | None:
    import torch

    generation = int(name[-1])
    least = (9, 0) if generation == 3 else (8, 0)
    capability = torch.cuda.get_device_capability()
    if capability < least:
        found = ".".join(map(str, capability))
        return Obstacle(f"needs compute capability {least[0]}.{least[1]}, this is {found}", _OTHERS)
    kernel = find_kernel(generation)
    if kernel is None:
        package = "flash_attn_3" if generation == 3 else "flash_attn"
        return Obstacle(f"needs the package {package}, not installed", INSTALL[name], missing=True)
    if needs.dtype == "float32":
        return Obstacle("computes in bf16 or fp16, and this is fp32", "set compute.precision=bf16")
    if needs.head_size > _LARGEST_HEAD or needs.head_size % _HEAD_STEP:
        limit = f"heads of up to {_LARGEST_HEAD}, multiples of {_HEAD_STEP}"
        return Obstacle(f"takes {limit}, these have {needs.head_size}", _OTHERS)
    if needs.softcap and not kernel.softcap:
        return _NO_SOFTCAP
    return _NO_DROPOUT if needs.dropout and not kernel.dropout else None


def _settle_padded(wanted: str, config: Any, obstacle: str) -> Attention:
    name = config.get_text_config().model_type
    if wanted not in ("auto", "sdpa", "eager"):
        raise ConfigError(
            f"model.attention: {wanted} is for packed batches, and {name} cannot be packed: "
            f"{obstacle}",
            hint="set model.attention=auto",
        )
    # transformers falls back to its eager code where an architecture has no other.
    return Attention("sdpa" if wanted == "auto" else wanted, "", f"{name}: {obstacle}")
