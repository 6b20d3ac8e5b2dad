"""Reward models: a causal model's layers with a head of one output, on the packed batch.

The reward of an answer is read at its last token. The models are transformers' own
``...ForSequenceClassification``, so what is trained here loads there.

Letters: R rewards of a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.files import load_json
from posttrain.layout import Segment, SegmentTable, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.attention.choose import settle_attention
from posttrain.models.load import (
    find_base,
    find_model,
    is_adapter,
    load_adapter,
    load_model,
    load_model_config,
)
from posttrain.models.padded import join, lay_out, takes_rows

Tree = tuple[Sequence[int], Sequence[Sequence[int]]]
"""Token ids of a prompt, and of each answer to it."""


def load_classifier(config: ModelConfig, *, prepare: Any = None, **loading: Any) -> Any:
    """Load a whole model for rewards; a causal one gets a fresh head in the place of its output.

    Args:
        config: Names a causal model or a reward model, no adapter.
        prepare: Called with it.
        loading: Of ``load_model``: attention, dtype, quantization.

    Returns:
        A transformers ``...ForSequenceClassification`` with one output, in evaluation mode.

    Raises:
        ConfigError: The architecture has no such head.
        CheckpointError: The model cannot be read.
    """
    kinds = load_model_config(config).architectures or ["CausalLM"]
    if kinds[0].endswith("ForSequenceClassification"):
        model = load_model(config, head="SequenceClassification", **loading)
    else:
        model = _replace_head(load_model(config, **loading), config.path)
    if hasattr(model, "score"):
        model.score.float()
    if prepare:
        prepare(model)
    return model


def _replace_head(causal: Any, name: str) -> Any:
    """Put a causal model's layers, as they are, below a fresh head."""
    from transformers import AutoModelForSequenceClassification

    settings = causal.config
    settings.num_labels = 1
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(settings)
        head = model.score
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"model {name}: {settings.model_type} has no reward head in transformers",
            hint="choose a model with a ForSequenceClassification that scores the last token",
        ) from error
    spread = getattr(settings.get_text_config(), "initializer_range", None) or 0.02
    model.score = nn.Linear(head.in_features, 1, bias=False)
    nn.init.normal_(model.score.weight, std=spread)
    setattr(model, model.base_model_prefix, causal.base_model)
    model.name_or_path = causal.name_or_path
    return model.eval()


def prepare_reward(model: Any) -> None:
    """Teach a reward model to take a packed batch (before adapters are added around it).

    A wrapper around the model's forward does it: called with ``score_positions``, it returns the
    rewards there, [R, 1], as its logits. Plain calls stay as they were.

    Args:
        model: Of ``load_classifier``, with one of our attention back ends, or with its own.

    Raises:
        ConfigError: It has no head that reads one token.
    """
    from transformers.modeling_outputs import SequenceClassifierOutput

    if not hasattr(model, "score"):
        raise ConfigError(
            f"{type(model).__name__} cannot score answers at their last tokens",
            hint="choose a causal model",
        )
    forward = model.forward

    @functools.wraps(forward)
    def take_request(*args: Any, **kwargs: Any) -> Any:
        if "score_positions" not in kwargs:
            return forward(*args, **kwargs)
        read = _read_rows if takes_rows(model) else _read_packed
        hidden_RE = read(model, kwargs)
        # In fp32: bf16 would round differences of rewards. Looked up now: adapters put a trained
        # copy of the head in its place.
        with torch.autocast(hidden_RE.device.type, enabled=False):
            rewards_R1 = model.score(hidden_RE.float())
        return SequenceClassifierOutput(logits=rewards_R1)

    model.forward = take_request


def _read_packed(model: Any, kwargs: dict[str, Any]) -> Tensor:
    """Hidden states at the asked positions, [R, hidden size]."""
    output = model.base_model(
        input_ids=kwargs["input_ids"],
        position_ids=kwargs["position_ids"],
        segments=kwargs["segments"],
        use_cache=False,
    )
    hidden_RE: Tensor = output.last_hidden_state[0, kwargs["score_positions"]]
    return hidden_RE


def _read_rows(model: Any, kwargs: dict[str, Any]) -> Tensor:
    """The same, of a model that cannot take a packed batch."""
    layers = model.base_model
    calls = lay_out(
        layers.forward, kwargs["input_ids"], kwargs["segments"], kwargs["score_positions"]
    )
    parts = [layers(**call.inputs).last_hidden_state[call.places] for call in calls]
    return join(calls, parts)


def end_positions(table: SegmentTable) -> np.ndarray[Any, Any]:
    """Place of every answer's last token in the batch, [R]; answers are segments with a parent."""
    return np.array(
        [
            start + length - 1
            for start, length, parent in zip(
                table.starts, table.lengths, table.parents, strict=True
            )
            if parent >= 0
        ],
        dtype=np.int64,
    )


def score_ends(model: Any, batch: dict[str, Any]) -> Tensor:
    """Run a packed batch through a prepared reward model.

    Args:
        model: Prepared by ``prepare_reward``, possibly wrapped for adapters or several processes.
        batch: Of ``layout.build_batch``, as tensors, with ``end_positions`` [R].

    Returns:
        Rewards, [R] float32.
    """
    rewards_R1 = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        segments=batch["segments"],
        score_positions=batch["end_positions"],
    ).logits
    return rewards_R1[:, 0].float()


def load_reward_model(folder: str, device: str) -> Any:
    """Load a finished reward model, ready for ``score_trees``.

    Args:
        folder: Its ``final`` folder, whole or an adapter; or any model of transformers with a
            head of one output that reads the last token.
        device: ``cpu`` or ``cuda``.

    Returns:
        The model, frozen, in evaluation mode.

    Raises:
        CheckpointError: It cannot be read, or is no reward model.
    """
    register_attention()
    place = find_model(folder)
    config = ModelConfig(path=place)
    if is_adapter(place):
        config = ModelConfig(path=find_base(Path(place)))
        settings = load_json(Path(place) / "adapter_config.json")
        if "score" not in (settings.get("modules_to_save") or ()):
            raise CheckpointError(
                f"model {folder}: the adapter has no reward head",
                hint="give the `final` folder of a reward stage",
            )
    elif not str(load_model_config(config).architectures).count("ForSequenceClassification"):
        raise CheckpointError(
            f"model {folder}: is no reward model",
            hint="give the `final` folder of a reward stage",
        )
    attention = settle_attention("auto", load_model_config(config), device=device, precision="fp32")
    model = load_classifier(
        config, prepare=prepare_reward, attention=attention.name, dtype="float32"
    )
    if is_adapter(place):
        model = load_adapter(model, Path(place))
    return model.requires_grad_(False).eval().to(device)


def score_trees(
    model: Any, trees: Sequence[Tree], *, batch_tokens: int = 8192
) -> list[list[float]]:
    """Rewards of answers; each prompt is computed once for all of its answers.

    Args:
        model: Of ``load_reward_model``.
        trees: Prompts with their answers. An answer without tokens is worth what its prompt is.
        batch_tokens: Most tokens in one packed batch; a larger tree is a batch of its own.

    Returns:
        One reward per answer, in order.
    """
    rewards: list[list[float]] = []
    batch: list[Tree] = []
    held = 0
    for tree in trees:
        size = len(tree[0]) + sum(len(answer) for answer in tree[1])
        if batch and held + size > batch_tokens:
            rewards += _score_forest(model, batch)
            batch, held = [], 0
        batch.append(tree)
        held += size
    return rewards + _score_forest(model, batch) if batch else rewards


def _score_forest(model: Any, trees: Sequence[Tree]) -> list[list[float]]:
    segments: list[Segment] = []
    ends: list[int] = []  # segment at whose last token each answer's reward is read
    for prompt, answers in trees:
        root = len(segments)
        segments.append(Segment(np.array(prompt), np.zeros(len(prompt))))
        for answer in answers:
            ends.append(len(segments) if len(answer) else root)
            if len(answer):
                segments.append(Segment(np.array(answer), np.zeros(len(answer)), root))
    packed = build_batch(segments)
    table: SegmentTable = packed["segments"]
    device = next(model.parameters()).device
    positions = [table.starts[i] + table.lengths[i] - 1 for i in ends]
    with torch.no_grad():
        rewards = score_ends(
            model,
            {
                "input_ids": torch.from_numpy(packed["input_ids"]).to(device),
                "position_ids": torch.from_numpy(packed["position_ids"]).to(device),
                "segments": table,
                "end_positions": torch.tensor(positions, device=device),
            },
        ).tolist()
    taken = iter(rewards)
    return [[next(taken) for _ in answers] for _, answers in trees]
