import pytest
from pydantic import ValidationError

from posttrain.config.train import DpoStage, GrpoStage, MlmStage, RewardStage, SftStage

DATA = {"sources": [{"path": "rows.jsonl"}]}
GSM8K = {"kind": "number", "task": "gsm8k", "data": {"path": "test.jsonl"}}
TEXT = {"kind": "perplexity", "task": "perplexity", "data": {"path": "held.txt"}}
KINDS = {
    "sft": SftStage,
    "dpo": DpoStage,
    "grpo": GrpoStage,
    "mlm": MlmStage,
    "reward": RewardStage,
}


def build(kind="sft", *tasks, every=None, **settings):
    evaluation = {"tasks": tasks or (GSM8K,), **({"every_steps": every} if every else {})}
    values = {"stage": kind, "data": DATA, "evaluation": evaluation, **settings}
    return KINDS[kind].model_validate(values)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_accuracy_alone_means_the_only_task_that_has_one(kind):
    stage = build(kind, GSM8K, TEXT, keep_best="accuracy", early_stopping={})
    assert stage.ranked_by == stage.watched == "gsm8k/accuracy"
    assert stage.is_higher_better(stage.ranked_by)
    assert not stage.needs_validation("accuracy")


def test_a_metric_of_validation_comes_first():
    assert build("grpo", keep_best="accuracy").ranked_by == "accuracy"
    assert build("grpo", keep_best="gsm8k/accuracy").ranked_by == "gsm8k/accuracy"
    stage = build("sft", TEXT, keep_best="perplexity")
    assert stage.ranked_by == "perplexity"
    assert stage.needs_validation("perplexity")


def test_perplexity_of_a_task_is_better_where_it_is_less():
    stage = build("sft", TEXT, keep_best="perplexity/perplexity")
    assert not stage.is_higher_better(stage.ranked_by)
    assert stage.ranked_by == "perplexity/perplexity"


def test_two_tasks_must_be_told_apart():
    hard = {**GSM8K, "name": "hard"}
    with pytest.raises(ValidationError, match=r"`accuracy` is not measured; .*hard/accuracy"):
        build("sft", GSM8K, hard, keep_best="accuracy")
    with pytest.raises(ValidationError, match="two tasks are named `gsm8k`"):
        build("sft", GSM8K, GSM8K)


def test_a_task_that_asks_no_model_is_refused():
    with pytest.raises(ValidationError, match="`items` looks at a file"):
        build("sft", {"kind": "items", "task": "items", "data": {"path": "items.jsonl"}})


def test_tasks_are_measured_at_checkpoints():
    with pytest.raises(
        ValidationError, match=r"`evaluation.every_steps` \(30\) must be a multiple"
    ):
        build("sft", every=30, save_every_steps=20)
    assert build("sft", every=40, save_every_steps=20).evaluation.every_steps == 40


@pytest.mark.parametrize("kind", ["mlm", "reward"])
def test_models_that_write_no_text_are_not_asked(kind):
    with pytest.raises(ValidationError):
        build(kind)


def test_verl_measures_elsewhere():
    with pytest.raises(ValidationError, match="`evaluation` works with `engine: local` alone"):
        build("grpo", engine="verl")


def test_what_is_measured_in_training_needs_no_validation_rows():
    from posttrain.training.guards.start import check_validation

    check_validation(build("sft", early_stopping={"metric": "accuracy"}), 0)
    check_validation(build("sft", keep_best="accuracy", final_model="best"), 0)
