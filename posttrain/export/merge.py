"""An adapter becomes part of its base model's weights, and nothing is kept that differs.

The sum is taken in fp32 on the full-precision base and rounded once. What was written is loaded
again and compared with the adapter model, before it appears under its name.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from posttrain.checkpoints import check_intact, write_manifest
from posttrain.config.export import MergeSettings
from posttrain.config.model import ModelConfig
from posttrain.errors import CheckpointError, ConfigError, NonFiniteError, VerificationError
from posttrain.export.handover import check_served_by
from posttrain.export.publish import digest_model, is_published, weight_bytes, write_model
from posttrain.export.verify import (
    PROMPTS,
    Agreement,
    ScoredText,
    compare_logits,
    encode_prompts,
    find_logits,
)
from posttrain.files import digest_json, load_json, publish_folder, sync_folder, write_json
from posttrain.generation.generator import GenerationOptions, write_all
from posttrain.generation.local import TransformersGenerator, build_requests
from posttrain.logs import say, show
from posttrain.models.load import (
    find_base,
    find_model,
    find_quantization,
    is_adapter,
    load_adapter,
    load_model,
    load_model_config,
    load_tokenizer,
)
from posttrain.models.lora import merge_into
from posttrain.models.trained_template import find_trained_template, write_trained_template

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest relative difference of logits that rounding the weights explains."""
_MOST_OF_EFFECT = 0.5
# Below this, the adapter's own effect is rounding too.
_NO_EFFECT = 1e-6
_BATCH = 8


def merge_adapter(
    source: ModelConfig,
    out: Path,
    settings: MergeSettings,
    *,
    base: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Merge an adapter into its base model and publish the result.

    Args:
        source: The adapter's folder as ``path``; the tokenizer is taken from there, or from
            ``tokenizer`` where given, or from the base.
        out: Folder of the merged model; one that holds this very result is left as it is.
        settings: Number format, prompt, size of files.
        base: Full-precision base; the one that the adapter names where absent.
        device: Where to compute.

    Returns:
        What ``merge.json`` holds.

    Raises:
        ConfigError: There is nothing to merge, the base is quantized, or ``out`` is taken.
        CheckpointError: Adapter or base is missing, damaged, or they do not fit.
        VerificationError: The merged model differs from the adapter model; nothing is written.
    """
    place = Path(find_model(source.path))
    config = _settle_base(source, place, base)
    dtype = settings.dtype if settings.dtype != "auto" else find_dtype(config)
    inputs = {
        "adapter": digest_model(place),
        "base": digest_model(find_model(config.path)),
        "revision": config.revision,
        "tokenizer": digest_model(source.tokenizer) if source.tokenizer else None,
        "dtype": dtype,
        "max_shard_gib": settings.max_shard_gib,
    }
    digest = digest_json(inputs)
    if is_published(out, digest):
        say(f"{out}: is this very merge already; not made again. Delete it to compare anew")
        result: dict[str, Any] = load_json(out / "merge.json")
        return result
    if (place / "MANIFEST.json").is_file():
        check_intact(place, hint="train it again")
    if _trained_in_nf4(place):
        say("the adapter was trained on the base in nf4; it is merged onto the full-precision base")
    tokenizer = load_tokenizer(_tokenizer_config(source, place, config))
    model = load_adapter(load_model(config, attention="sdpa", dtype="float32"), place)
    model = model.eval().to(device)
    try:
        comparison = _Comparison(model, tokenizer, settings)
    except NonFiniteError as error:
        raise VerificationError(
            f"adapter {place}: {error.args[0]}", hint="train it again"
        ) from error
    merged = _merge(model, place).to(getattr(torch, dtype))
    with publish_folder(out) as folder:
        write_model(merged, tokenizer, folder, max_shard_gib=settings.max_shard_gib)
        del model, merged
        written = load_model(
            ModelConfig(path=str(folder), trust_remote_code=config.trust_remote_code),
            attention="sdpa",
            dtype="float32",
        )
        agreement = comparison.check(written.to(device), dtype)
        result = {
            # Files by their sums, and no places: the folder goes to other machines.
            "adapter": inputs["adapter"],
            "base": inputs["base"],
            "dtype": dtype,
            "trained_in_nf4": _trained_in_nf4(place),
            "weight_bytes": weight_bytes(folder),
            "adapter_effect": comparison.effect.relative_difference,
            "agreement": asdict(agreement),
            "answers": comparison.answers,
        }
        write_json(folder / "merge.json", result)
        write_trained_template(folder, find_trained_template(place))
        sync_folder(folder)
        check_served_by(folder)
        write_manifest(folder, {"made_by": "posttrain merge", "inputs": digest})
    return result


def check_mergeable(source: ModelConfig) -> None:
    """Refuse what is no language model's adapter, before anything is loaded.

    Raises:
        ConfigError: It is a whole model, or a reward model's adapter.
        CheckpointError: The adapter cannot be read.
    """
    place = find_model(source.path)
    if not is_adapter(place):
        raise ConfigError(
            f"model {source.path}: is a whole model without an adapter, so there is nothing to "
            "merge",
            hint="use it as it is; `posttrain quantize` makes it smaller",
        )
    find_base(Path(place))  # refuses a damaged adapter_config.json
    task = load_json(Path(place) / "adapter_config.json").get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ConfigError(
            f"adapter {source.path}: is of a model for {task}, not of a language model",
            hint="give the adapter of a pretrain, sft, dpo, grpo or ppo stage",
        )


def _settle_base(source: ModelConfig, place: Path, base: str | None) -> ModelConfig:
    """Find the base model, in full precision."""
    check_mergeable(source)
    name = base or find_base(place)
    # A revision is that of the recipe's model, whose name is then a hub id.
    config = source.model_copy(update={"path": name, "tokenizer": None, "chat_template": None})
    try:
        quantization = find_quantization(config)
    except CheckpointError as error:
        if base:
            raise
        raise CheckpointError(
            f"adapter {place}: its base model {name} cannot be found or read",
            hint="say where it is with base=DIR",
        ) from error
    if quantization or is_adapter(find_model(name)):
        kind = f"quantized ({quantization})" if quantization else "an adapter itself"
        raise ConfigError(
            f"base model {name}: is {kind}; merging onto it would lose what was trained",
            hint="give the full-precision model with base=DIR",
        )
    return config


def _tokenizer_config(source: ModelConfig, place: Path, base: ModelConfig) -> ModelConfig:
    """Where the tokenizer is: as told, else beside the adapter, else with the base."""
    if source.tokenizer:
        return source
    own = (place / "tokenizer_config.json").is_file()
    update = {"tokenizer": str(place) if own else base.path}
    return source.model_copy(update=update)


def find_dtype(config: ModelConfig) -> str:
    """Number format of a model as it was published.

    Our own training always writes fp32; its lineage leads back to the model it began with.

    Args:
        config: A whole model or an adapter.

    Returns:
        Such as ``bfloat16``; ``float32`` where a model does not say.

    Raises:
        CheckpointError: The model cannot be found or read.
    """
    place = Path(find_model(config.path))
    lineage = place.parent / "lineage.json"
    parent = find_base(place) if is_adapter(place) else None
    if parent is None and place.name == "final" and lineage.is_file():
        parent = load_json(lineage).get("parent_model")
    if parent and (parent != config.path):
        try:
            return find_dtype(config.model_copy(update={"path": parent}))
        except CheckpointError:
            if is_adapter(place):
                raise
    name = str(load_model_config(config).dtype or "float32").removeprefix("torch.")
    return name if name in TOLERANCE else "float32"


def _trained_in_nf4(place: Path) -> bool:
    lineage = place.parent / "lineage.json"
    return lineage.is_file() and load_json(lineage).get("tuning") == "qlora"


def _merge(model: Any, place: Path) -> Any:
    if not hasattr(model, "merge_and_unload"):
        raise ConfigError(f"adapter {place}: {type(model).__name__} cannot be merged into weights")
    try:
        return merge_into(model)
    except ValueError as error:  # peft found a value that is not finite
        raise VerificationError(
            f"adapter {place}: {str(error).splitlines()[0]}", hint="train it again"
        ) from error
    except (AttributeError, NotImplementedError) as error:  # prompt tuning and its like
        raise ConfigError(
            f"adapter {place}: this kind of adapter cannot be merged into weights"
        ) from error


class _Comparison:
    """The adapter model's logits and answers, kept until there is a merged model to hold to them.

    Args:
        model: Base with adapter, in fp32.
        tokenizer: Its tokenizer.
        settings: The user's own prompt and the length of answers.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: MergeSettings) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._asked = [settings.test_prompt] if settings.test_prompt else []
        self._prompts = encode_prompts(tokenizer, [*self._asked, *PROMPTS])
        self._answers = self._write(model)
        self._texts = [
            ScoredText([*prompt, *answer], [True] * (len(prompt) + len(answer)))
            for prompt, answer in zip(self._prompts, map(self._encode, self._answers), strict=True)
        ]
        self._logits = list(find_logits(model, self._texts))
        with model.disable_adapter():
            plain = list(find_logits(model, self._texts))
        self.effect = compare_logits(self._texts, self._logits, plain)
        """The base against the adapter model: what would be lost without the adapter."""
        self.answers: list[dict[str, str]] = []
        """To the user's own prompt."""

    def _write(self, model: Any) -> list[str]:
        written = write_all(
            TransformersGenerator(model, self._tokenizer, batch_size=_BATCH),
            build_requests(self._prompts),
            GenerationOptions(self._settings.max_new_tokens),
            whole=True,
        )
        return [completion.text for completion in written]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def check(self, merged: Any, dtype: str) -> Agreement:
        """Hold the merged model to the adapter model.

        Args:
            merged: Loaded from what was written.
            dtype: In which it was written.

        Raises:
            VerificationError: It differs by more than rounding explains.
        """
        found = compare_logits(self._texts, self._logits, find_logits(merged, self._texts))
        answers = self._write(merged)
        same = sum(a == b for a, b in zip(self._answers, answers, strict=True))
        effect = self.effect.relative_difference
        say(
            f"merged {dtype} against adapter model, {found.tokens:,} positions of "
            f"{len(self._texts)} texts: logits differ by {found.relative_difference:.2e} "
            f"(largest {found.max_difference:.2e}), top token agrees {found.top1_agreement:.2%}, "
            f"KL {found.kl:.2e} nats, {same} of {len(answers)} answers identical"
        )
        say(f"the adapter itself moves the logits by {effect:.2e}, KL {self.effect.kl:.2e} nats")
        for prompt, before, after in zip(self._asked, self._answers, answers, strict=False):
            self.answers.append({"prompt": prompt, "adapter": before, "merged": after})
            show(f"prompt:         {prompt}\nadapter model:  {before}\nmerged model:   {after}")
        if not found.relative_difference <= TOLERANCE[dtype]:
            raise VerificationError(
                f"the merged model differs from the adapter model by "
                f"{found.relative_difference:.2e} of its logits; rounding to {dtype} explains "
                f"{TOLERANCE[dtype]:.0e}; nothing was written",
                hint="try dtype=float32, and check that the base is the one it was trained on",
            )
        if effect <= _NO_EFFECT:
            say("warning: the adapter changes nothing on these texts; was it trained?")
        elif found.relative_difference > _MOST_OF_EFFECT * effect:
            raise VerificationError(
                f"rounding to {dtype} moves the logits by {found.relative_difference:.2e}, the "
                f"adapter only by {effect:.2e}: most of the training would be lost; nothing was "
                "written",
                hint="set dtype=float32",
            )
        return found
