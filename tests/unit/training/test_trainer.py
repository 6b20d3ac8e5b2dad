"""PackedTrainer on a very small model: normalization, guards, logs."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback

from posttrain.checkpoints import FoundCheckpoint
from posttrain.config.train import SftStage
from posttrain.data.store import ExampleStore
from posttrain.errors import NonFiniteError
from posttrain.models.attention import register_attention
from posttrain.models.packed import prepare_packed
from posttrain.runtime import Compute
from posttrain.tracking import MetricsRecorder
from posttrain.training.arguments import build_arguments
from posttrain.training.batches import PlannedBatches, build_schedule
from posttrain.training.budget import TokenBudget
from posttrain.training.guards.rollback import Rollbacks
from posttrain.training.guards.watch import Guards
from posttrain.training.interrupt import StopRequest
from posttrain.training.objective import LanguageObjective
from posttrain.training.processes import StepBatches
from posttrain.training.saving import Saver
from posttrain.training.trainer import PackedTrainer

LENGTHS = [11, 4, 16, 7, 13, 5, 9, 14]
VOCABULARY = 97


class Peek(TrainerCallback):
    """Keeps the gradients of every step, after clipping."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named})


@pytest.fixture
def store() -> ExampleStore:
    random = np.random.default_rng(0)
    offsets = np.cumsum([0, *LENGTHS])
    trained = random.random(offsets[-1]) < 0.6
    trained[offsets[:-1]] = False
    trained[offsets[1:] - 1] = True
    ids = random.integers(2, VOCABULARY, offsets[-1]).astype(np.int32)
    places = np.array([(0, line + 1) for line in range(len(LENGTHS))])
    return ExampleStore(ids, trained, offsets, places, ("rows.jsonl",))


def build_model(tied: bool = True) -> Any:
    register_attention()
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=tied,
        attn_implementation="posttrain_sdpa",
    )
    model = Qwen3ForCausalLM(config)
    prepare_packed(model)
    return model


@pytest.fixture
def run(tmp_path: Path, store: ExampleStore, tiny_tokenizer: Any, capsys: Any) -> Any:
    """Train on the store; returns the trainer with what it left behind."""

    def run(
        model: Any, *, validation: Any = None, stop: Any = None, sgd: bool = True, **changes: Any
    ):
        settings = {
            "stage": "sft",
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "batch_tokens": 16,
            "learning_rate": 0.5 if sgd else 1e-3,
            "schedule": "constant",
            "warmup": 0,
            "max_grad_norm": 1e9,
            "log_every_steps": 1,
            "save_every_steps": 1000,
            **changes,
        }
        stage = SftStage.model_validate(settings)
        schedule = build_schedule(store, stage, seed=0)
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        arguments = build_arguments(
            stage,
            folder=folder,
            compute=Compute("cpu", "fp32", 1, "a test"),
            steps=schedule.steps,
            seed=0,
            save_steps=stage.save_every_steps,
            validate=validation is not None,
        )

        def build(model: Any) -> torch.optim.Optimizer:
            # Adam turns rounding noise of tiny gradients into whole steps.
            method = torch.optim.SGD if sgd else torch.optim.AdamW
            return method(model.parameters(), lr=stage.learning_rate)

        peek = Peek()
        with MetricsRecorder(folder) as recorder:
            trainer = PackedTrainer(
                model=model,
                args=arguments,
                optimizer=build,
                objective=LanguageObjective(),
                dataset=StepBatches(
                    PlannedBatches(store, schedule.batches), stage.accumulate, 0, 1
                ),
                schedule=schedule,
                validation=validation,
                saver=Saver(folder / "checkpoints", stage),
                budget=TokenBudget(folder, stage.batch_tokens),
                recorder=recorder,
                stop=stop or StopRequest(),
                tokenizer=tiny_tokenizer,
                guards=Guards(stage, Rollbacks(folder, stage), FoundCheckpoint(None, 0, ())),
            )
            trainer.add_callback(peek)
            trainer.train()
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        return SimpleNamespace(
            trainer=trainer, metrics=metrics, gradients=peek.gradients, schedule=schedule
        )

    return run


def mean_loss(model: Any, store: ExampleStore, examples: Any) -> torch.Tensor:
    """Mean loss per trained token, example by example, through transformers' own attention."""
    model.set_attn_implementation("sdpa")
    total, count = torch.zeros(()), 0
    for example in examples:
        ids, trained = (torch.from_numpy(np.array(part)) for part in store.example(int(example)))
        losses = cross_entropy(
            model(ids.long()[None]).logits[0, :-1], ids[1:].long(), reduction="none"
        )
        total, count = total + losses[trained[1:]].sum(), count + int(trained[1:].sum())
    return total / count


def assert_same(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float
):
    for name, value in expected.items():
        distance = (found[name] - value).norm() / value.norm().clamp_min(1e-12)
        assert distance < tolerance, name


@pytest.mark.parametrize("tied", [True, False])
def test_accumulated_batches_move_the_weights_as_one_large_batch(run, tied):
    split, whole = build_model(tied), build_model(tied)
    many = run(split, accumulate=100)
    one = run(whole, batch_tokens=sum(LENGTHS))
    assert (many.schedule.steps, one.schedule.steps) == (1, 1)
    assert (len(many.schedule.batches) > 4, len(one.schedule.batches)) == (True, 1)
    assert_same(many.gradients[0], one.gradients[0], 2e-6)
    assert_same(dict(split.state_dict()), dict(whole.state_dict()), 1e-6)
    assert many.metrics[0]["loss"] == pytest.approx(one.metrics[0]["loss"], rel=1e-6)


def test_every_step_is_normalized_by_its_own_weights_the_last_partial_one_too(run, store):
    model = build_model()
    done = run(model, accumulate=4, learning_rate=1e-12)
    batches = done.schedule.batches
    assert len(batches) % 4
    assert len(done.gradients) == done.schedule.steps > 1
    for step in range(done.schedule.steps):
        examples = np.concatenate(batches[4 * step : 4 * step + 4])
        plain = build_model()
        loss = mean_loss(plain, store, examples)
        loss.backward()
        expected = {name: p.grad for name, p in plain.named_parameters()}
        assert_same(done.gradients[step], expected, 1e-5)
        assert done.metrics[step]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_accuracy_and_entropy_of_a_step_are_means_over_its_trained_tokens(run, store):
    done = run(build_model(), accumulate=100, learning_rate=1e-12)
    model = build_model()
    model.set_attn_implementation("sdpa")
    right, entropy = [], []
    for example in range(len(LENGTHS)):
        ids, trained = (torch.from_numpy(np.array(part)) for part in store.example(example))
        with torch.no_grad():
            logp = model(ids.long()[None]).logits[0, :-1].log_softmax(-1)[trained[1:]]
        right += (logp.argmax(-1) == ids[1:][trained[1:]]).float().tolist()
        entropy += (-(logp.exp() * logp).sum(-1)).tolist()
    assert done.metrics[0]["token_accuracy"] == pytest.approx(np.mean(right))
    assert done.metrics[0]["entropy"] == pytest.approx(np.mean(entropy), rel=1e-5)


def test_validation_loss_is_the_mean_over_all_validation_tokens(run, store):
    batches = PlannedBatches(store, [np.array([0, 1]), np.array([2])])
    model = build_model()
    done = run(model, validation=batches, steps=1)
    line = next(row for row in done.metrics if "validation_loss" in row)
    with torch.no_grad():
        expected = float(mean_loss(model, store, [0, 1, 2]))
    assert line["validation_loss"] == pytest.approx(expected, rel=1e-5)
    assert sum("validation_loss" in row for row in done.metrics) == 1


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_rows(run, store):
    model = build_model(tied=False)
    with torch.no_grad():  # the last example's first token, as an input
        model.get_input_embeddings().weight[int(store.example(7)[0][0])] = math.nan
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(NonFiniteError, match="a batch is nan; no update was applied") as caught:
        run(model, batch_tokens=sum(LENGTHS), learning_rate=1e-3)
    assert "step 1: " in str(caught.value)
    assert "(8 rows, such as rows.jsonl:" in str(caught.value)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0, equal_nan=True)


def test_a_gradient_that_is_not_finite_stops_before_the_update_and_is_named(run):
    model = build_model()
    weight = model.model.layers[1].self_attn.o_proj.weight
    weight.register_hook(lambda gradient: gradient * math.nan)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(
        NonFiniteError, match=r"of model\.layers\.1\.self_attn\.o_proj\.weight and 0"
    ):
        run(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.detach(), before[name])


@pytest.mark.parametrize(("every", "logged"), [(1, [1, 2, 3, 4, 5]), (3, [1, 3, 5]), (10, [1, 5])])
def test_the_first_and_the_last_step_are_always_logged(run, every, logged):
    done = run(build_model(), steps=5, log_every_steps=every)
    assert [row["step"] for row in done.metrics] == logged
    assert done.metrics[-1]["tokens"] == int(done.schedule.batch_size_tokens.sum())
    assert done.metrics[-1]["trained_tokens"] == int(done.schedule.batch_trained_tokens.sum())
    assert done.trainer.logged_losses == [row["loss"] for row in done.metrics]


def test_sparse_logs_average_the_steps_between(run):
    dense = run(build_model(), steps=5).metrics
    sparse = run(build_model(), steps=5, log_every_steps=3).metrics
    assert sparse[1]["loss"] == pytest.approx((dense[1]["loss"] + dense[2]["loss"]) / 2, rel=1e-5)
    assert sparse[2]["loss"] == pytest.approx((dense[3]["loss"] + dense[4]["loss"]) / 2, rel=1e-5)


def test_the_exported_config_keeps_the_cache_setting(run, tmp_path):
    model = build_model()
    assert model.config.use_cache is True
    run(model, steps=1)
    assert model.config.use_cache is True


def test_checkpoints_hold_no_pickled_arguments(run):
    done = run(build_model(), steps=2, save_every_steps=1)
    names = {path.name for path in done.trainer.saver.folder.rglob("*")}
    assert "training_args.bin" not in names
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names


def test_a_stop_asked_for_before_the_last_step_saves_and_ends(run):
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    done = run(build_model(), steps=5, stop=stop)
    assert done.trainer.state.global_step == 1
    assert [path.name for path in done.trainer.saver.folder.glob("step-*")] == ["step-000001"]


def test_a_stop_asked_for_in_the_last_step_is_a_finished_run(run):
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    done = run(build_model(), steps=1, stop=stop)
    assert done.trainer.state.global_step == done.schedule.steps == 1
    assert (done.trainer.saver.folder / "last" / "MANIFEST.json").is_file()
