import pytest
from pydantic import ValidationError

from posttrain.config.recipe import Recipe
from posttrain.config.train import DpoStage, GrpoStage, SftStage

DATA = {"sources": [{"path": "rows.jsonl"}]}


def build(kind, name, **settings):
    return kind.model_validate({"stage": name, "data": DATA, **settings})


def test_a_metric_alone_stands_for_the_best_by_it():
    stage = build(SftStage, "sft", keep_best="token_accuracy")
    assert (
        stage.keep_best == build(SftStage, "sft", keep_best={"metric": "token_accuracy"}).keep_best
    )
    assert stage.keep_best.count == 1


def test_a_metric_that_the_method_does_not_measure_is_refused_with_those_it_does():
    with pytest.raises(ValidationError, match="`reward` is not measured; there is: loss, perplex"):
        build(SftStage, "sft", keep_best="reward")
    with pytest.raises(ValidationError, match="there is: reward, accuracy"):
        build(GrpoStage, "grpo", keep_best="loss")
    with pytest.raises(ValidationError, match="`acuracy` is not measured; there is: loss"):
        build(SftStage, "sft", keep_best="acuracy")
    with pytest.raises(ValidationError, match=r"early_stopping\.metric: `reward` is not measured"):
        build(SftStage, "sft", early_stopping={"metric": "reward"})


def test_a_metric_of_unknown_direction_needs_to_be_told():
    with pytest.raises(ValidationError, match="say whether a higher `entropy` is better"):
        build(SftStage, "sft", keep_best="entropy")
    kept = {"metric": "chosen_log_ratio", "higher_is_better": True}
    assert build(DpoStage, "dpo", keep_best=kept).keep_best.higher_is_better


def test_what_no_clock_and_no_memory_can_hold_is_refused():
    with pytest.raises(ValidationError, match="less than or equal to 100000"):
        build(SftStage, "sft", loss_spike={"window": 10**20})
    recipe = {"name": "r", "model": {"path": "tiny"}, "stages": [{"stage": "sft", "data": DATA}]}
    Recipe.model_validate({**recipe, "stop_after_minutes": 0.5})
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        Recipe.model_validate({**recipe, "stop_after_minutes": 1e300})
