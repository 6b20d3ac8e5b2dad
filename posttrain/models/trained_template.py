"""The chat template that a model was trained with, and whether another one is in use.

A model asked in another form than it has learned answers worse, and its score does not say why. So
the digest of the template travels with the weights, in a file of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.files import digest_json, write_json
from posttrain.logs import say

FILE = "posttrain.json"
"""What is known of a model beside what others read: ``chat_template``, the sha256 of the one that
it was trained with."""
_SHOWN = 12


def digest_template(tokenizer: Any) -> str | None:
    """Digest a tokenizer's chat template; None where it has none."""
    template = tokenizer.chat_template
    return digest_json(template) if template else None


def write_trained_template(folder: Path, digest: str | None) -> None:
    """Note in a model's folder what template it was trained with; nothing where that is unknown."""
    if digest:
        write_json(folder / FILE, {"chat_template": digest})


def find_trained_template(place: str | Path) -> str | None:
    """Find the digest of the template that a model was trained with.

    Args:
        place: Folder of a model, an adapter or a checkpoint; a name of none is unknown.

    Returns:
        None where it is not known: a model of others, or one that was trained on plain text alone.
    """
    try:
        found = json.loads((Path(place) / FILE).read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def compare_templates(model: str, used: str | None) -> dict[str, Any]:
    """Hold the template in use to the one that a model was trained with; a difference is said.

    Args:
        model: Where it is.
        used: Digest of the template in use; None where prompts are plain text.

    Returns:
        ``used`` and ``trained``, digests or None, and ``same``, None where it cannot be known.
    """
    trained = find_trained_template(model)
    same = None if trained is None else used == trained
    if trained and not same:
        put = f"another one, {used[:_SHOWN]}" if used else "none: it is given plain text"
        say(
            f"warning: {model} was trained with the chat template {trained[:_SHOWN]}; in use is "
            f"{put}; what it answers may be worse for that alone"
        )
    return {"used": used, "trained": trained, "same": same}
