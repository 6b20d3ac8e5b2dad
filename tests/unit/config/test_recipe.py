import pytest
from pydantic import ValidationError

from posttrain.config.base import Located
from posttrain.config.data import DataConfig, SourceConfig
from posttrain.config.recipe import Recipe, stage_sources

SAMPLE = {"stage": "sample-data", "kind": "math", "num": 3}
EVALUATE = {"stage": "evaluate", "tasks": [{"kind": "number", "data": {"path": "a.jsonl"}}]}


def sft(**changes):
    return {"stage": "sft", "data": {"sources": [{"path": "a.jsonl"}]}, **changes}


def recipe(*stages):
    return Recipe.model_validate({"name": "r", "model": {"path": "tiny"}, "stages": stages})


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([sft(), sft()], "two stages are named `sft`"),
        ([sft(start_from="sft")], "`start_from: sft` names no earlier"),
        ([sft(name="a", start_from="b"), sft(name="b")], "`start_from: b` names no earlier"),
        ([SAMPLE, sft(start_from="sample-data")], "names no earlier"),
        ([{**EVALUATE, "model_from": "sft"}, sft()], "`model_from: sft` names no earlier"),
        ([sft(), {**EVALUATE, "compare_to": "sft"}], "names no earlier stage that is evaluate"),
        ([sft(data={"sources": [{"from_stage": "rows"}]})], "`from_stage: rows` names no earlier"),
        (
            [
                sft(
                    data={
                        "sources": [{"path": "a"}],
                        "contamination": {"against": [{"from_stage": "test"}]},
                    }
                )
            ],
            "`from_stage: test` names no earlier stage that is sample-data",
        ),
        ([sft(name="base")], "a stage with a model cannot be named `base`"),
    ],
)
def test_reference_to_no_earlier_stage_is_refused(stages, message):
    with pytest.raises(ValidationError, match=message):
        recipe(*stages)


def test_references_to_earlier_stages_are_taken():
    made = recipe(
        {**SAMPLE, "name": "rows"},
        {**EVALUATE, "name": "base", "model_from": "base"},
        sft(name="first", data={"sources": [{"from_stage": "rows"}]}),
        sft(name="second", start_from="first"),
        {**EVALUATE, "name": "after", "model_from": "first", "compare_to": "base"},
    )

    assert [stage.name for stage in made.stages] == ["rows", "base", "first", "second", "after"]


def test_every_source_of_a_stage_is_listed():
    data = {
        "sources": [{"path": "a"}, {"path": "b"}],
        "contamination": {"against": [{"path": "c"}]},
    }
    made = recipe(sft(data=data), EVALUATE)

    assert [str(s.path) for s in stage_sources(made.stages[0])] == ["a", "b", "c"]
    assert [str(s.path) for s in stage_sources(made.stages[1])] == ["a.jsonl"]


@pytest.mark.parametrize("source", [{}, {"path": "a", "from_stage": "b"}])
def test_source_has_exactly_one_origin(source):
    with pytest.raises(ValidationError, match="give either `path` or `from_stage`"):
        SourceConfig.model_validate(source)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.2)])
def test_split_that_leaves_nothing_to_train_on_is_refused(shares):
    split = {"validation": shares[0], "test": shares[1]}
    with pytest.raises(ValidationError, match="leave nothing to train on"):
        DataConfig.model_validate({"sources": [{"path": "a"}], "split": split})


@pytest.mark.parametrize(
    ("shares", "fits"),
    [
        ([{"epochs": 1}, {"weight": 1}, {"weight": 3}], True),
        ([{"epochs": 1}, {}, {}], True),
        ([{"epochs": 1}, {"weight": 1}, {}], False),
        ([{"weight": 1}, {}], False),
    ],
)
def test_sources_without_epochs_all_have_a_weight_or_none_has(shares, fits):
    values = {"sources": [{"path": "a", **share} for share in shares]}
    if fits:
        assert len(DataConfig.model_validate(values).sources) == len(shares)
    else:
        with pytest.raises(ValidationError, match="without `epochs` a `weight`, or none"):
            DataConfig.model_validate(values)


@pytest.mark.parametrize("name", ["", "..", "a/b", "Upper", "-a", "a b", "a\n", "x" * 65])
def test_name_that_is_no_safe_folder_is_refused(name):
    with pytest.raises(ValidationError):
        recipe(sft(name=name))


def test_recipe_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        recipe(sft()).seed = 3


def test_values_that_know_their_place_are_plain_once_checked(tmp_path):
    source = SourceConfig.model_validate(
        {
            "path": Located("rows.jsonl", tmp_path),
            "columns": {"output": Located("reply", tmp_path)},
        }
    )

    assert source.path == tmp_path / "rows.jsonl"
    assert type(source.columns["output"]) is str


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = SourceConfig.model_validate({"path": Located("~/rows.jsonl", tmp_path / "x")})

    assert source.path == tmp_path / "rows.jsonl"
