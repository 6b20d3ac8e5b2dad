"""A stage's settings -> its optimizer: which method changes which weight, and at what rate."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from posttrain.config.optimizer import OptimizerConfig
from posttrain.config.recipe import Recipe
from posttrain.extras import require_extra
from posttrain.training.rounding import build_generator, round_stochastically
from posttrain.training.schedules import plan_rates

Group = dict[str, Any]


def build_optimizer(model: Any, stage: OptimizerConfig, recipe: Recipe) -> Optimizer:
    """Build the optimizer of a training stage.

    Norms and biases get no weight decay. `muon` is for the matrices of the layers; `adamw_8bit`
    for all but embeddings, whose gradients are too uneven for it; AdamW takes the others.

    Args:
        model: With trainable parameters.
        stage: Its settings.
        recipe: Seed and LoRA+ ratio.

    Returns:
        One optimizer; its state is plain tensors and numbers.

    Raises:
        MissingExtraError: `adamw_8bit` without bitsandbytes.

    Source:
        Muon: Jordan et al. 2024, kellerjordan.github.io/posts/muon. 8 bits, embeddings apart:
        Dettmers et al. 2022, arXiv:2110.02861, section 2.3. LoRA+: Hayou et al. 2024,
        arXiv:2402.12354.
    """
    methods: dict[str, list[Group]] = {}
    for method, group in _group_parameters(model, stage, recipe.lora.plus_ratio):
        methods.setdefault(method, []).append(group)
    parts = [_METHODS[method](groups, stage) for method, groups in methods.items()]
    rounds = any(p.dtype == torch.bfloat16 for part in parts for p in _parameters(part))
    if len(parts) == 1 and not rounds and stage.optimizer != "adamw_8bit":
        return parts[0]
    return PartedOptimizer(parts, stage.learning_rate, recipe.seed)


def check_optimizer(stage: OptimizerConfig, steps: int) -> None:
    """Look at a stage's optimizer and learning rate before anything is spent.

    Args:
        stage: Its settings.
        steps: Optimizer steps of the whole stage.

    Raises:
        ConfigError: The schedule cannot be used as it is set.
        MissingExtraError: `adamw_8bit` without bitsandbytes.
    """
    if stage.optimizer == "adamw_8bit":
        require_extra("bitsandbytes", "quantize")
    plan_rates(stage, steps)


STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "adafactor": 0.0, "muon": 4.0}
"""Bytes that a method keeps of each value of a large matrix."""
_WHOLE_BELOW = 4096  # bitsandbytes keeps smaller tensors in fp32


def weigh_state(model: Any, stage: OptimizerConfig) -> float:
    """Count the bytes that a stage's optimizer keeps of a model.

    Args:
        model: With trainable parameters, possibly on the meta device.
        stage: Its settings.
    """
    total = 0.0
    for method, group in _group_parameters(model, stage, 1.0):
        for parameter in group["params"]:
            if method == "adafactor":  # a value for each row and each column
                total += 4 * sum(parameter.shape)
            else:
                small = method == "adamw_8bit" and parameter.numel() < _WHOLE_BELOW
                total += parameter.numel() * STATE_BYTES["adamw" if small else method]
    return total


def _group_parameters(
    model: Any, stage: OptimizerConfig, plus_ratio: float
) -> Iterator[tuple[str, Group]]:
    """Yield the method and its group: weights with one rate and one decay."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    groups: dict[tuple[str, float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # ZeRO-3 leaves an empty tensor in the place of one that is shared out.
        sides = len(getattr(parameter, "ds_shape", parameter.shape))
        method: str = stage.optimizer
        if method == "muon" and (sides != 2 or not _IN_A_LAYER.search(name)):
            method = "adamw"
        if method == "adamw_8bit" and id(parameter) in embeddings:
            method = "adamw"
        rate = stage.learning_rate * (plus_ratio if _LORA_B.search(name) else 1.0)
        decay = stage.weight_decay if sides > 1 else 0.0
        groups.setdefault((method, rate, decay), []).append(parameter)
    for (method, rate, decay), parameters in groups.items():
        yield method, {"params": parameters, "lr": rate, "weight_decay": decay}


def _build_adamw(groups: list[Group], stage: OptimizerConfig) -> Optimizer:
    betas = (stage.beta1, stage.beta2)
    return torch.optim.AdamW(
        groups, lr=stage.learning_rate, betas=betas, eps=stage.epsilon, fused=True
    )


def _build_adamw_8bit(groups: list[Group], stage: OptimizerConfig) -> Optimizer:
    bitsandbytes = require_extra("bitsandbytes", "quantize")
    betas = (stage.beta1, stage.beta2)
    made: Optimizer = bitsandbytes.optim.AdamW8bit(
        groups, lr=stage.learning_rate, betas=betas, eps=stage.epsilon
    )
    return made


def _build_adafactor(groups: list[Group], stage: OptimizerConfig) -> Optimizer:
    from transformers.optimization import Adafactor

    # With a rate of its own it would not follow the schedule.
    return Adafactor(groups, lr=stage.learning_rate, scale_parameter=False, relative_step=False)


def _build_muon(groups: list[Group], stage: OptimizerConfig) -> Optimizer:
    # Its updates are made as large as AdamW's usually are, so that one learning rate and one
    # weight decay do for both (Liu et al. 2025, arXiv:2502.16982, section 2.2).
    return torch.optim.Muon(
        groups,
        lr=stage.learning_rate,
        weight_decay=0.0,
        momentum=stage.momentum,
        adjust_lr_fn="match_rms_adamw",
    )


_METHODS: dict[str, Callable[[list[Group], OptimizerConfig], Optimizer]] = {
    "adamw": _build_adamw,
    "adamw_8bit": _build_adamw_8bit,
    "adafactor": _build_adafactor,
    "muon": _build_muon,
}
_IN_A_LAYER = re.compile(r"\.\d+\.")  # layers are numbered; embeddings and heads are not
_LORA_B = re.compile(r"\.lora_(embedding_)?B\.")


class PartedOptimizer(Optimizer):
    """Several methods as one optimizer, and bf16 weights that lose no update.

    A bf16 weight is updated as fp32, one parameter at a time, and rounded back at random; what the
    method remembers of it is fp32, or what it keeps of its own.

    Args:
        parts: Methods with their groups.
        rate: Learning rate, from which schedules reckon.
        seed: Of the rounding.
    """

    def __init__(self, parts: Sequence[Optimizer], rate: float, seed: int) -> None:
        self._parts, self._seed = parts, seed
        for number, part in enumerate(parts):
            for group in part.param_groups:
                group |= {"part": number, "steps": 0}
        super().__init__([group for part in parts for group in part.param_groups], {"lr": rate})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update every weight that has a gradient."""
        number = 0
        for group in self.param_groups:
            group["steps"] += 1
            wide = [p for p in group["params"] if p.dtype != torch.bfloat16]
            self._advance(group, wide)
            for parameter in group["params"]:
                number += 1
                if parameter.dtype == torch.bfloat16 and parameter.grad is not None:
                    self._advance_rounded(group, parameter, number)

    def _advance_rounded(self, group: Group, parameter: Any, number: int) -> None:
        """Let a stand-in take the step; its state is the parameter's."""
        wide = torch.nn.Parameter(parameter.float())
        wide.grad = parameter.grad.float()
        if parameter in self.state:
            self.state[wide] = self.state.pop(parameter)
        self._advance(group, [wide])
        self.state[parameter] = self.state.pop(wide)
        generator = build_generator(wide.device, self._seed, group["steps"], number)
        parameter.copy_(round_stochastically(wide.detach(), generator))

    def _advance(self, group: Group, parameters: list[Any]) -> None:
        part = self._parts[group["part"]]
        part.state = self.state
        part.param_groups = [{**group, "params": parameters}]
        part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state, number formats included: torch would cast it to the weights'."""
        super().load_state_dict(state_dict)
        for number, parameter in enumerate(_parameters(self)):
            for name, value in state_dict["state"].get(number, {}).items():
                kept = value.to(parameter.device) if isinstance(value, torch.Tensor) else value
                self.state[parameter][name] = kept


def _parameters(optimizer: Optimizer) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]
