"""Every training method shows the measures it is judged by."""

import pytest

from posttrain.reports.folders import load_run, load_stage
from posttrain.reports.run import build_run_report
from posttrain.reports.summary import list_training_rows
from posttrain.reports.training import build_training
from tests.unit.reports.conftest import write_json, write_jsonl, write_stage_json

COMMON = {"loss": 0.5, "learning_rate": 1e-4, "grad_norm": 1.0, "tokens": 9, "trained_tokens": 5}
ONLINE = {
    "reward": 0.25,
    "reward_answer": 0.25,
    "reward_format": 0.5,
    "completion_tokens": 31.0,
    "unfinished": 0.125,
    "entropy": 1.5,
    "clipped_share": 0.01,
}
METHODS = {
    "pretrain": ({"token_accuracy": 0.5}, {"validation_loss": 2.0, "validation_perplexity": 7.39}),
    "mlm": ({"token_accuracy": 0.5}, {"validation_loss": 2.0, "validation_perplexity": 7.39}),
    "dpo": ({"pair_accuracy": 0.5, "margin": 0.1}, {"validation_pair_accuracy": 0.75}),
    "reward": ({"pair_accuracy": 0.5, "margin": 0.1}, {"validation_pair_accuracy": 0.75}),
    "grpo": (
        {**ONLINE, "equal_groups": 0.5, "reference_kl": 0.01},
        {"validation_reward": 0.375, "validation_accuracy": 0.375},
    ),
    "ppo": (
        {**ONLINE, "explained_variance": 0.5, "value_loss": 0.1},
        {"validation_reward": 0.375, "validation_accuracy": 0.375},
    ),
}
PLOTS = {
    "pretrain": ["Loss (nats per token)", "Perplexity", "Token accuracy"],
    "mlm": ["Loss (nats per token)", "Perplexity", "Token accuracy"],
    "dpo": ["Loss", "Pair accuracy", "Margin of the better answer"],
    "reward": ["Loss", "Pair accuracy", "Margin of the better answer"],
    "grpo": [
        "Reward",
        "Right answers",
        "Answers in form",
        "Tokens per answer",
        "Unfinished answers",
        "Groups whose answers are worth the same",
        "Entropy (nats per token)",
        "Clipped tokens",
        "Distance from the reference (nats per token)",
    ],
    "ppo": ["Reward", "Right answers", "Variance that the value head explains", "Value loss"],
}
FACTS = {
    "pretrain": ("Validation perplexity", "7.390"),
    "mlm": ("Validation perplexity", "7.390"),
    "dpo": ("Validation pair accuracy", "75.0 %"),
    "reward": ("Validation pair accuracy", "75.0 %"),
    "grpo": ("Reward, first to last", "0.250 → 0.750"),
    "ppo": ("Validation accuracy", "37.5 %"),
}


@pytest.fixture(params=METHODS)
def stage(request, tmp_path):
    training, validation = METHODS[request.param]
    folder = tmp_path / request.param
    last = {**training, "reward": 0.75} if "reward" in training else training
    rows = [{"step": 1, **COMMON, **training}, {"step": 2, **COMMON, **last}]
    write_jsonl(folder / "metrics.jsonl", [*rows, {"step": 2, **validation}])
    write_stage_json(folder, request.param, 3.0, loss_first=0.7, loss_last=0.5)
    return load_stage(folder)


def test_plots_and_facts_of_every_method(stage):
    view = build_training(stage, {})
    titles = [plot.split('aria-label="')[1].split('"')[0] for plot in view.plots]
    assert [title for title in PLOTS[stage.kind] if title not in titles] == []
    assert FACTS[stage.kind] in view.facts
    # The loss of online methods stays about 0 whatever they learn.
    shown = dict(view.facts)
    assert ("Loss, first to last" in shown) == (stage.kind not in ("grpo", "ppo"))


def test_validation_without_a_loss_is_not_lost(stage):
    assert stage.metrics.validation[-1]["step"] == 2
    assert len(stage.metrics.training) == 2


def test_result_table_tells_rewards_of_online_methods(tmp_path):
    for kind, losses in (("sft", (3.0, 1.0)), ("grpo", (0.01, -0.02))):
        folder = tmp_path / kind
        training = METHODS[kind][0] if kind in METHODS else {}
        write_jsonl(folder / "metrics.jsonl", [{"step": 1, **COMMON, **training}])
        write_stage_json(folder, kind, 3.0, loss_first=losses[0], loss_last=losses[1])
    stages = [{"stage": "sft"}, {"stage": "grpo"}, {"stage": "merge"}, {"stage": "quantize"}]
    write_json(tmp_path / "config.json", {"name": "r", "stages": stages})
    write_stage_json(tmp_path / "quantize", "quantize", 1.0, method="nf4", loss_increase=0.0125)
    page = build_run_report(tmp_path).read_text()
    assert "Result of quantize" in page
    assert "0.0125" in page
    run = load_run(tmp_path)
    assert [s.name for s in run.training_stages] == ["sft", "grpo"]
    rows = {row.label: row.cells[0] for row in list_training_rows(run)}
    assert rows["Loss, first to last"] == "3.000 to 1.000"
    assert rows["Reward, first to last"] == "0.250 to 0.250"
