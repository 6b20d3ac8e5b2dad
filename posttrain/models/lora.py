"""Low-rank adapters through peft, and what is trained whole beside them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import MethodType
from typing import Any

from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError
from posttrain.models.modules import (
    describe_modules,
    find_names,
    find_stack,
    has_experts,
    is_linear,
    is_router,
    layer_of,
    to_regex,
)


def add_lora(
    model: Any, config: LoraConfig, task: str | None = "CAUSAL_LM", rows: Sequence[int] = ()
) -> Any:
    """Wrap a model in fresh, trainable adapters; everything else is frozen.

    Args:
        model: A transformers model, possibly on the meta device.
        config: Rank, scale and places.
        task: What it does, as peft calls it; the fresh head of a ``SEQ_CLS`` model is trained
            whole and saved with the adapters. None for what peft has no name for.
        rows: Token ids whose rows are trained too, of ``models.rows.find_rows``.

    Returns:
        The peft model.

    Raises:
        ConfigError: A name or pattern means no module, or parts do not go together.
    """
    import peft

    whole = _find_whole(model, config, task)
    targets = _find_targets(model, config, whole)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_shorten(model, targets),
        task_type=task,
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=True if config.init == "default" else config.init,
        rank_pattern=_read_patterns(model, targets, config.rank_pattern, "lora.rank_pattern"),
        alpha_pattern=_read_patterns(model, targets, config.alpha_pattern, "lora.alpha_pattern"),
        modules_to_save=whole or None,
        ensure_weight_tying=is_tied(model) and bool(_end_names(model) & set(whole)),
        trainable_token_indices=_place_rows(model, whole, targets, rows) or None,
    )
    return wrap_in_adapter(model, settings)


def wrap_in_adapter(model: Any, settings: Any) -> Any:
    """Put fresh adapters with peft's own settings around a model."""
    import peft

    # With checkpointing, peft has the embeddings differentiated, for a kind of it that we do not
    # use: all layers below the lowest adapter would be, for nothing.
    model.enable_input_require_grads = lambda: None
    try:
        with quiet_peft():
            wrapped = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(
            f"lora: {error}".splitlines()[0],
            hint=f"modules of this model: {describe_modules(model)}",
        ) from error
    finally:
        del model.enable_input_require_grads
    settle_adapter(wrapped)
    return wrapped


def shape_adapter(model: Any, place: str, task: str | None) -> Any:
    """Wrap a model without memory in an adapter of the shape of a stored one, to be trained on.

    Args:
        model: On the meta device.
        place: The adapter's folder.
        task: What the model does; a reward model's head is trained too.
    """
    import peft

    settings: Any = peft.PeftConfig.from_pretrained(place)
    settings.inference_mode = False
    if task == "SEQ_CLS":
        settings.modules_to_save = sorted({*(settings.modules_to_save or ()), "score"})
    return wrap_in_adapter(model, settings)


def describe_adapters(model: Any) -> str:
    """Say in a line what of a model with adapters is trained, from what is there."""
    from peft.tuners.lora import LoraLayer

    modules = dict(model.get_base_model().named_modules())
    adapted = [name for name, module in modules.items() if isinstance(module, LoraLayer)]
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in adapted)
    parts = [f"{len(adapted)} modules ({', '.join(kinds)})"]
    settings = model.peft_config["default"]
    if whole := settings.modules_to_save:
        parts.append(f"{', '.join(sorted(whole))} in full")
    for name, rows in (settings.trainable_token_indices or {}).items():
        parts.append(f"{len(rows):,} rows of {name}")
    return f"adapters on {'; '.join(parts)}"


def _find_whole(model: Any, config: LoraConfig, task: str | None) -> list[str]:
    """Modules that are trained whole; of two tied ones the embeddings."""
    names = [n for n, m in model.named_modules() if has_weights(m)]
    found = find_names(config.train_in_full, names, model, "lora.train_in_full")
    ends = _end_names(model)
    if is_tied(model) and found & ends:
        source = _name_of(model, model.get_input_embeddings())
        if not source.endswith("embed_tokens"):  # the one name that peft ties again
            raise ConfigError(
                f"lora.train_in_full: peft cannot keep {' and '.join(sorted(ends))} tied",
                hint="leave them out, or set tuning=full with train_only",
            )
        found = found - ends | {source}
    if task == "SEQ_CLS":
        found.add("score")
    return sorted(found)


def _find_targets(model: Any, config: LoraConfig, whole: Sequence[str]) -> list[str]:
    """Full names of the modules that get an adapter, in the model's order."""
    head = model.get_output_embeddings()
    stack = find_stack(model)
    linear = {n: m for n, m in model.named_modules() if is_linear(m)}
    if config.targets == "auto":
        wanted = {n for n, m in linear.items() if layer_of(n, stack) is not None}
        wanted -= {n for n in wanted if is_router(n, linear[n])}
        if has_experts(model):  # peft knows the others' names as those of the joined matrices
            wanted = {n for n in wanted if "attn" in n or "attention" in n}
    elif config.targets == "all-linear":
        wanted = {n for n, m in linear.items() if m is not head}
    else:
        able = [n for n, m in model.named_modules() if n in linear or is_embedding(m)]
        wanted = find_names(config.targets, able, model, "lora.targets")
        if config.dora and head is not None and (name := _name_of(model, head)) in wanted:
            raise ConfigError(
                f"lora.targets: dora on the output layer {name} is not supported",
                hint="leave it out, name it in lora.train_in_full, or set lora.dora=false",
            )
    wanted -= set(whole)
    if config.layers is not None:
        chosen = _read_layers(config.layers, model, stack)
        wanted = {n for n in wanted if layer_of(n, stack) in {None, *chosen}}
    if not wanted:
        raise ConfigError(
            "lora.targets: no module is left that gets an adapter",
            hint=f"modules of this model: {describe_modules(model)}",
        )
    return [name for name, _ in model.named_modules() if name in wanted]


def _read_layers(layers: Iterable[int | str], model: Any, stack: str) -> set[int]:
    count = len(model.get_submodule(stack)) if stack else 0
    chosen: set[int] = set()
    for item in layers:
        first, _, last = str(item).partition("-")
        span = range(int(first), int(last or first) + 1)
        if not span or span[-1] >= count:
            raise ConfigError(
                f"lora.layers: {item} is no layer of this model",
                hint=f"it has the layers 0 to {count - 1}",
            )
        chosen.update(span)
    return chosen


def _shorten(model: Any, targets: Sequence[str]) -> list[str]:
    """Ends of the targets' names where these mean the same, as people write them."""
    ends = sorted({name.rpartition(".")[2] for name in targets})
    meant = [n for n, _ in model.named_modules() if n.rpartition(".")[2] in ends]
    return ends if meant == list(targets) else list(targets)


def _read_patterns(
    model: Any, targets: Sequence[str], patterns: dict[str, Any], key: str
) -> dict[str, Any]:
    """Say in peft's way which targets a pattern means; one that means none is refused."""
    for pattern in patterns:
        find_names([pattern], targets, model, key)
    return {to_regex(pattern, key): value for pattern, value in patterns.items()}


def _place_rows(
    model: Any, whole: Sequence[str], targets: Sequence[str], rows: Sequence[int]
) -> dict[str, list[int]]:
    """Which rows of which modules are trained; tied ones are trained as one."""
    places = [_name_of(model, model.get_input_embeddings())] if rows else []
    if rows and model.get_output_embeddings() is not None and not is_tied(model):
        places.append(_name_of(model, model.get_output_embeddings()))
    if taken := [name for name in places if name in targets]:
        raise ConfigError(
            f"lora.targets: {taken[0]} has rows that are trained (lora.train_rows) and cannot have "
            "an adapter as well",
            hint=f"put {taken[0]} into lora.train_in_full, or set lora.train_rows=[]",
        )
    return {name: list(rows) for name in places if name not in whole}


def has_weights(module: Any) -> bool:
    """Whether a module has weights of its own."""
    return next(module.parameters(recurse=False), None) is not None


def is_embedding(module: Any) -> bool:
    """Whether a module looks up rows by ids."""
    import torch

    return isinstance(module, torch.nn.Embedding)


def is_tied(model: Any) -> bool:
    """Whether embeddings and output layer are one matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _name_of(model: Any, wanted: Any) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _end_names(model: Any) -> set[str]:
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {_name_of(model, module) for module in ends if module is not None}


def settle_adapter(model: Any) -> None:
    """Settle what peft leaves open of a model that it has wrapped."""
    keep_scoring(model)
    # Never the base's embeddings: the adapter names its base, and peft would ask the hub about it.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)


def keep_scoring(model: Any) -> None:
    """Let an output layer of which rows or a copy are trained do what it did before.

    peft multiplies by the matrix itself: the layer's bias would be lost, and the scores that our
    packed batch asks the layer for.

    Args:
        model: A peft model; nothing happens where its output layer is as it was.
    """
    from torch.func import functional_call

    head = model.get_output_embeddings()
    if (rows := getattr(head, "token_adapter", None)) is not None:
        forward = rows.forward

        def multiply(self: Any, hidden: Any) -> Any:
            if self.disable_adapters or not self.active_adapters or self.merged:
                return forward(hidden)
            weight = self.get_merged_weights(self.active_adapters)
            return functional_call(self.base_layer, {"weight": weight}, (hidden,))

        rows.forward = MethodType(multiply, rows)
    for copied in getattr(head, "modules_to_save", {}).values():
        original = head.original_module

        def score(self: Any, hidden: Any, original: Any = original) -> Any:
            return functional_call(original, dict(self.named_parameters()), (hidden,))

        copied.forward = MethodType(score, copied)
        # Of tied ones peft makes the copy itself, with the two the wrong way round.
        copied.in_features, copied.out_features = original.in_features, original.out_features


def merge_into(model: Any) -> Any:
    """Make an adapter part of its base model's weights.

    Args:
        model: A peft model.

    Returns:
        The base model. Tied embeddings with adapters of their own are no longer tied.

    Raises:
        ValueError: A value is not finite.
    """
    from peft.tuners.lora import LoraLayer

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    adapted = isinstance(head, LoraLayer) or isinstance(embeddings, LoraLayer)
    if adapted and head is not None and is_tied(model):
        # peft would add either update to the one matrix that both share.
        plain = head.base_layer if hasattr(head, "base_layer") else head
        plain.weight = type(plain.weight)(plain.weight.detach().clone())
        model.get_base_model().config.tie_word_embeddings = False
    with quiet_peft():
        return model.merge_and_unload(safe_merge=True)


def widen_norms(model: Any) -> None:
    """Hold a frozen model's norms in fp32: they are small, and rounding them costs most."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data.float()


_TOLD_BY_PEFT = (
    ".*is_gradient_checkpointing.*",  # it asks transformers by a name of before
    ".*a tied layer is part of the adapter.*",  # `merge_into` parts them first
    ".*tied_target_modules.*",
)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Hold back warnings that are peft's to act on, or that we have acted on."""
    with warnings.catch_warnings():
        for text in _TOLD_BY_PEFT:
            warnings.filterwarnings("ignore", text)
        yield


def count_elements(parameter: Any) -> int:
    """Count the values of a weight; in nf4 two of them share a stored byte."""
    packed = getattr(parameter, "quant_state", None)
    count: int = packed.shape.numel() if packed is not None else parameter.numel()
    return count
