"""The model of a training stage: packed attention, scoring head, adapters where asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.config.recipe import Recipe
from posttrain.errors import ConfigError
from posttrain.logs import say
from posttrain.models.attention import register_attention
from posttrain.models.attention.choose import Attention, settle_attention
from posttrain.models.freeze import freeze_parts
from posttrain.models.load import Quantization, load_base_config, load_model
from posttrain.models.lora import add_lora, describe_adapters, merge_into, widen_norms
from posttrain.models.output_layer import check_scorable
from posttrain.models.packed import prepare_packed
from posttrain.models.rows import find_rows
from posttrain.runtime import set_seed
from posttrain.training.processes import shares_weights
from posttrain.training.stage import TrainingJob


def build_model(job: TrainingJob, *, value_head: bool = False) -> Any:
    """Load the model for training: packed attention, scoring head, adapters where asked for.

    Args:
        job: The stage.
        value_head: Whether the model shall estimate the reward to come as well; the head, all 0,
            is its attribute ``value_head``.
    """
    attention = begin_model(job)
    heads: list[Any] = []

    def prepare(model: Any) -> None:
        check_scorable(model.config)
        if value_head:
            heads.append(_build_value_head(model))
        prepare_packed(model, *heads)
        prepare_tuning(job, model)

    model = load_model(
        job.recipe.model,
        attention=attention.name,
        prepare=prepare,
        train_adapter=job.recipe.tuning != "full",
        **weight_format(job),
    )
    model = tune(job, model)
    for head in heads:  # last, or adapters would freeze it
        model.value_head = head.to(model.device)
    return model


def weight_format(job: TrainingJob) -> dict[str, Any]:
    """How the weights are held in training: ``dtype`` and ``quantization`` of ``load_model``."""
    tuning = job.recipe.tuning
    return {
        "dtype": weight_dtype(tuning, job.compute.precision, job.recipe.compute.weights),
        "quantization": Quantization("nf4", job.compute.place) if tuning == "qlora" else None,
    }


def begin_model(job: TrainingJob) -> Attention:
    """Seed what will be drawn, settle the attention of a causal model and say so."""
    register_attention()
    attention = settle_attention(
        job.recipe.model.attention,
        load_base_config(job.recipe.model),
        device=job.compute.device,
        precision=job.compute.precision,
    )
    say(f"attention: {attention}")
    set_seed(job.recipe.seed)
    return attention


def foresee_attention(recipe: Recipe, model: ModelConfig) -> Attention | None:
    """Settle a stage's attention before its run has settled what it computes on.

    Args:
        recipe: Whose settings of the machine count.
        model: That the stage starts from.

    Returns:
        What the stage will say, or None where it asks for a GPU that is not here.

    Raises:
        ConfigError: The wish cannot be met.
        MissingExtraError: Its package is not installed.
    """
    import torch

    register_attention()
    here = torch.cuda.is_available()
    device = recipe.compute.device
    if device == "auto":
        device = "cuda" if here else "cpu"
    if device == "cuda" and not here:
        return None
    asked = recipe.compute.arithmetic
    # What the measurement of a CPU finds changes nothing in what can be chosen there.
    precision = asked if asked != "auto" else ("bf16" if device == "cuda" else "fp32")
    config = load_base_config(model)
    return settle_attention(model.attention, config, device=device, precision=precision)


def prepare_tuning(job: TrainingJob, model: Any) -> None:
    """Settle what a model needs before adapters are put around it."""
    if job.recipe.tuning != "full":
        widen_norms(model)
    if job.stage.activation_checkpointing:
        enable_checkpointing(model)


def tune(job: TrainingJob, model: Any, task: str | None = "CAUSAL_LM") -> Any:
    """Make a loaded model trainable as the recipe says.

    Args:
        job: The stage.
        model: The model, with the adapter that its folder may hold.
        task: What the model does, as peft calls it.

    Raises:
        ConfigError: Its weights are quantized and shall be trained, or a setting means no module.
    """
    recipe = job.recipe
    adapters = recipe.tuning != "full"
    if not adapters and getattr(model, "is_quantized", False):
        raise ConfigError(
            f"model {recipe.model.path}: its weights are quantized and cannot be trained",
            hint="set tuning=lora, or start from the model before quantization",
        )
    held = hasattr(model, "peft_config")
    if held and adapters:
        say("going on with the adapter that the model folder holds; `lora` is not used")
        return model
    if held:
        # Full tuning on top of an adapter: its update becomes part of the weights first.
        model = merge_into(model).requires_grad_(True)
    tuned = choose_trained(recipe, model, task)
    if adapters:
        say(describe_adapters(tuned))
    return tuned


def choose_trained(recipe: Recipe, model: Any, task: str | None) -> Any:
    """Choose what of a whole model is trained; the same for a model without memory.

    Args:
        recipe: Of one stage, as ``Recipe.tuned_for`` returns it.
        model: Possibly on the meta device.
        task: What the model does, as peft calls it.

    Returns:
        The model, with fresh adapters where the recipe wants them.

    Raises:
        ConfigError: A setting means no module or row, or nothing is left to train.
    """
    if recipe.tuning == "full":
        freeze_parts(model, recipe.train_only, recipe.freeze)
        return model
    count = model.get_input_embeddings().weight.shape[0]
    rows = find_rows(recipe.lora, recipe.model, count)
    check_rows_whole(recipe, rows)
    return add_lora(model, recipe.lora, task, rows)


def check_rows_whole(recipe: Recipe, rows: Sequence[Any]) -> None:
    """Refuse to train rows of matrices that are shared out over the processes.

    Args:
        recipe: Of one stage, as ``Recipe.tuned_for`` returns it.
        rows: Tokens or ids whose rows are to be trained.

    Raises:
        ConfigError: There are some, with ZeRO-3.
    """
    if rows and shares_weights(recipe.parallel):
        raise ConfigError(
            "lora.train_rows needs whole embeddings, and ZeRO-3 shares them out over the processes",
            hint="set parallel.strategy=ddp or zero2, or lora.train_rows=[]",
        )


def _build_value_head(model: Any) -> Any:
    """One output, all 0, so that it starts without an opinion."""
    import torch

    head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    return head


def enable_checkpointing(model: Any) -> None:
    """Compute activations twice and keep only the layers' inputs."""
    # transformers renamed it after 5.17 and warns of the old name.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # Only the reentrant kind needs gradients at the embeddings; they would have every layer below
    # the lowest trained one differentiated for nothing.
    model.disable_input_require_grads()


def weight_dtype(tuning: str, precision: str, trained: str) -> str:
    """Number format of the model's weights.

    Args:
        tuning: Of the recipe; beside adapters the weights are frozen.
        precision: Of the arithmetic, which frozen weights follow.
        trained: ``compute.weights``, for those that are not frozen.
    """
    chosen = trained if tuning == "full" else precision
    return "bfloat16" if chosen == "bf16" else "float32"
