"""A model folder that appears whole, and is never written over another's work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from posttrain.checkpoints import MANIFEST, find_damage
from posttrain.errors import ConfigError, PosttrainError
from posttrain.files import digest_file, load_json
from posttrain.generation.endings import find_end_ids
from posttrain.logs import say


def is_published(out: Path, digest: str) -> bool:
    """Whether a folder holds this very result already.

    Args:
        out: Where it is to be.
        digest: Of all that the result depends on.

    Returns:
        True for an intact one; False where it has to be made, again or for the first time.

    Raises:
        ConfigError: Something else lies there.
    """
    if out.is_file():
        raise ConfigError(f"{out}: is a file", hint="choose another out=DIR")
    if not out.is_dir() or not any(out.iterdir()):
        return False
    try:
        known = load_json(out / MANIFEST).get("inputs")
    except (OSError, ValueError, AttributeError):
        known = None
    if known != digest:
        raise ConfigError(
            f"{out}: holds something else, which is not written over",
            hint="choose another out=DIR, or delete that folder first",
        )
    damage = find_damage(out)
    if damage:
        say(f"{out}: {damage}; making it again")
    return damage is None


def digest_model(place: str | Path) -> Any:
    """Digest what a model name stands for: the bytes of a local folder's files, else the name."""
    folder = Path(place)
    if not folder.is_dir():
        return str(place)
    return {f.name: digest_file(f) for f in sorted(folder.iterdir()) if f.is_file()}


def write_model(model: Any, tokenizer: Any, folder: Path, *, max_shard_gib: float = 5.0) -> None:
    """Write weights, config, generation config, tokenizer and chat template.

    Args:
        model: Whole, in the number format that it is to be stored in.
        tokenizer: That it was trained with.
        folder: Being built.
        max_shard_gib: Largest file of weights.

    Raises:
        PosttrainError: The disk is full.
    """
    if ends := find_end_ids(model, tokenizer):
        # A server stops at these only; a base model's own list lacks the template's end of turn.
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    try:
        model.save_pretrained(folder, max_shard_size=max(1, round(max_shard_gib * 2**30)))
        tokenizer.save_pretrained(folder)
    except (SafetensorError, RuntimeError) as error:
        raise PosttrainError(
            f"cannot write {folder.parent}: {str(error).splitlines()[0]}",
            hint="free the space or choose another out=DIR",
        ) from error


def weight_bytes(folder: Path) -> int:
    """Size of a folder's weights on disk."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    return sum(path.stat().st_size for path in files)
