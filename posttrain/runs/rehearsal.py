"""An optimizer step on shapes alone: what it takes at its fullest moment.

The stage's own model, packed batch and objective go through torch's fake tensors, so that whatever
attention, head, checkpointing or adapters keep is counted as they are.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posttrain.config.recipe import Recipe
from posttrain.config.train import DpoStage, GrpoStage, MlmStage, PpoStage, RewardStage
from posttrain.errors import PosttrainError
from posttrain.layout import Segment, build_batch
from posttrain.models.attention import register_attention
from posttrain.models.attention.choose import Attention, settle_attention
from posttrain.models.heads import end_positions, prepare_reward
from posttrain.models.live import LiveBytes, imagine_weights, unpack_weights
from posttrain.models.masked import prepare_masked
from posttrain.models.packed import prepare_packed
from posttrain.models.padded import settle_rows
from posttrain.runs.tuning import shape_model
from posttrain.training.batches import to_tensors
from posttrain.training.mlm import MaskedObjective
from posttrain.training.model import prepare_tuning, weight_dtype
from posttrain.training.objective import LanguageObjective
from posttrain.training.policy import PolicyObjective
from posttrain.training.preference import PreferenceObjective
from posttrain.training.reward import RewardObjective

# Layers are alike: of a deep model, this many and half of it are gone through.
_MOST_LAYERS = 8
# Holes between tensors in a CPU's heap, as a share of what it holds: fitted to measured peaks, see
# docs/log.md. More where a layer's tensors come and go while others stay.
_HOLES = {"full": 0.35, "lora": 1.0, "qlora": 1.5}
_HOLES_CHECKPOINTING = 1.0


class NotRehearsedError(Exception):
    """A step cannot be done on shapes alone; the message says what it ended with."""


def rehearse_step(
    recipe: Recipe, stage: Any, config: Any, packed: dict[str, Any], *, again: bool
) -> Counter[str]:
    """Count what a step's forward and backward pass holds besides weights and optimizer.

    Args:
        recipe: As ``Recipe.tuned_for`` returns it for the stage.
        stage: A training stage.
        config: The model's transformers config.
        packed: Arrays of the heaviest batch, of ``layout.build_batch``.
        again: Whether gradients of another batch are there already.

    Returns:
        Bytes of ``activations``, ``head`` and ``gradients`` at the fullest moment, and of holes
        that the ``allocator`` leaves between them.

    Raises:
        NotRehearsedError: The model's code wants values, or what shapes do not tell.
    """
    try:
        return _rehearse_layers(recipe, stage, config, to_tensors(_finish(stage, packed)), again)
    except PosttrainError:
        raise
    except Exception as error:  # whatever code of a model's own makes of tensors without values
        said = str(error).strip().splitlines() or [""]
        text = f"{type(error).__name__}: {said[0]}" if said[0] else type(error).__name__
        raise NotRehearsedError(
            f"a step on shapes alone, without values, ends with {text}"
        ) from error


def _rehearse_layers(
    recipe: Recipe, stage: Any, config: Any, batch: dict[str, Any], again: bool
) -> Counter[str]:
    layers = int(config.get_text_config().num_hidden_layers)
    if layers <= _MOST_LAYERS:
        return _rehearse(recipe, stage, config, batch, again)
    few, more = (
        _rehearse(recipe, stage, _cut_config(config, count), batch, again)
        for count in (_MOST_LAYERS // 2, _MOST_LAYERS)
    )
    growth = (layers - _MOST_LAYERS) / (_MOST_LAYERS - _MOST_LAYERS // 2)
    return Counter({kind: round(size + growth * (size - few[kind])) for kind, size in more.items()})


def _cut_config(config: Any, layers: int) -> Any:
    cut = copy.deepcopy(config)
    text = cut.get_text_config()
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    text.num_hidden_layers = layers
    return cut


def _rehearse(
    recipe: Recipe, stage: Any, config: Any, batch: dict[str, Any], again: bool
) -> Counter[str]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    register_attention()
    # What works on GPUs only is counted as what a CPU has in its place.
    attention = settle_attention("auto", config, device="cpu", precision="fp32")
    _plan_attention(attention, config, batch)
    bf16 = recipe.compute.arithmetic == "bf16"
    dtype = weight_dtype(recipe.tuning, "bf16" if bf16 else "fp32", recipe.compute.weights)
    with torch.device("meta"):
        model = shape_model(
            recipe,
            stage,
            config,
            lambda made: _prepare(recipe, stage, made),
            attn_implementation=attention.name,
            dtype=getattr(torch, dtype),
        ).train()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        imagine_weights(model)
        if recipe.tuning == "qlora":
            unpack_weights(model)
        inputs = {
            name: fake.from_tensor(value) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }
        live = LiveBytes(model, config.get_text_config().vocab_size, keep_gradients=not again)
        objective = _objective(stage)
        with live:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = objective.measure(model, inputs, torch.ones(())).loss
            loss.backward()
        held = sum(p.nbytes for p in model.parameters() if again and p.requires_grad)
        holes = round(_share_of_holes(recipe, stage) * live.small)
        return live.peak + Counter(gradients=held, allocator=holes)


def _share_of_holes(recipe: Recipe, stage: Any) -> float:
    share = _HOLES[recipe.tuning]
    return max(share, _HOLES_CHECKPOINTING) if stage.activation_checkpointing else share


def _prepare(recipe: Recipe, stage: Any, model: Any) -> None:
    from types import SimpleNamespace

    if isinstance(stage, MlmStage):
        prepare_masked(model)
    elif isinstance(stage, RewardStage):
        prepare_reward(model)
    elif isinstance(stage, PpoStage):
        model.value_head = nn.Linear(model.config.get_text_config().hidden_size, 1)
        prepare_packed(model, model.value_head)
    else:
        prepare_packed(model)
    prepare_tuning(SimpleNamespace(recipe=recipe, stage=stage), model)  # type: ignore[arg-type]


def _objective(stage: Any) -> Any:
    if isinstance(stage, MlmStage):
        return MaskedObjective()
    if isinstance(stage, RewardStage):
        return RewardObjective()
    if isinstance(stage, DpoStage):
        return PreferenceObjective(stage)
    return (
        PolicyObjective(stage) if isinstance(stage, GrpoStage | PpoStage) else LanguageObjective()
    )


def _finish(stage: Any, packed: dict[str, Any]) -> dict[str, Any]:
    """Add what the method adds, of the right shape."""
    scored = len(packed["score_positions"])
    if isinstance(stage, RewardStage):
        return {**packed, "end_positions": end_positions(packed["segments"])}
    if isinstance(stage, DpoStage):
        pairs = len(packed["segments"].tree_tokens())
        return {**packed, "reference_logprobs": np.zeros((pairs, 2), dtype=np.float32)}
    if isinstance(stage, GrpoStage | PpoStage):
        names = ("old_logprobs", "reference_logprobs", "old_values", "advantages", "returns")
        return {**packed, **{f"{n}_N": np.zeros(scored, dtype=np.float32) for n in names}}
    if not isinstance(stage, MlmStage):
        return packed
    table = packed["segments"]
    total = table.total_tokens
    found = np.arange(max(1, math.ceil(stage.mask.share * total)))
    owners: np.ndarray[Any, Any] = np.repeat(np.arange(len(table.lengths)), table.lengths)
    return {
        **packed,
        "segments": replace(table, causal=False, plans={}),
        "score_positions": found,
        "score_targets": packed["input_ids"][0][found],
        "score_weights": np.ones(len(found), dtype=np.float32),
        "score_segments": owners[found],
    }


def build_round(prompt_tokens: int, stage: Any) -> dict[str, Any]:
    """Build the largest batch of a round's answers: full groups of the longest prompt."""
    segments: list[Segment] = []
    left = stage.batch_tokens
    size = stage.max_new_tokens
    for _ in range(stage.prompts_per_rollout):
        if left < prompt_tokens + size:
            break
        root = len(segments)
        segments.append(Segment(np.zeros(prompt_tokens, np.int64), np.zeros(prompt_tokens)))
        left -= prompt_tokens
        for _ in range(min(stage.completions, left // size)):
            segments.append(Segment(np.zeros(size, np.int64), np.ones(size), root))
            left -= size
    return build_batch(segments)


def _plan_attention(attention: Attention, config: Any, batch: dict[str, Any]) -> None:
    """Let the back end settle its indices for the batch, which fake tensors cannot."""
    from transformers import AttentionInterface

    table = batch["segments"]
    if attention.padded:
        settle_rows(table)
        return
    tokens = table.total_tokens
    heads = torch.zeros(1, 1, tokens, 8)
    attend = AttentionInterface()[attention.name]
    for window in {None, getattr(config, "sliding_window", None)}:
        with torch.no_grad():
            attend(
                nn.Module(),
                heads,
                heads,
                heads,
                None,
                segments=table,
                scaling=1.0,
                sliding_window=window,
            )
