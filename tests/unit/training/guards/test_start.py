import shutil

import pytest
import torch

from posttrain.checkpoints import load_manifest, write_manifest
from posttrain.config.train import SftStage
from posttrain.errors import ConfigError, DataError, VerificationError
from posttrain.files import load_json, write_json
from posttrain.models.load import load_tokenizer
from posttrain.training.data import load_data
from posttrain.training.guards.start import check_optimizer, check_trainable, check_validation


@pytest.fixture
def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def test_parameters_are_counted_and_tied_ones_once(model):
    assert check_trainable(model) == (26, 26)
    model[0].weight.requires_grad = False
    assert check_trainable(model) == (14, 26)
    tied = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    assert check_trainable(tied) == (9, 9)


def test_a_model_without_trainable_parameters_is_refused(model):
    model.requires_grad_(False)
    with pytest.raises(VerificationError, match="no parameter of the model is trainable"):
        check_trainable(model)


def test_another_number_of_trainable_parameters_than_planned_is_refused(model):
    assert check_trainable(model, 26) == (26, 26)
    model[0].bias.requires_grad = False
    with pytest.raises(VerificationError, match="22 parameters of the model are trainable, and th"):
        check_trainable(model, 26)


def test_an_optimizer_without_parameters_is_refused(model):
    optimizer = torch.optim.AdamW(model.parameters())
    check_optimizer(model, optimizer)
    optimizer.param_groups.clear()
    with pytest.raises(VerificationError, match="the optimizer has no parameters"):
        check_optimizer(model, optimizer)


def test_an_optimizer_that_lacks_a_trainable_weight_is_refused(model):
    optimizer = torch.optim.AdamW(model[0].parameters())
    with pytest.raises(VerificationError, match=r"does not have 1\.weight and 1 other trainable"):
        check_optimizer(model, optimizer)


def test_an_optimizer_with_a_frozen_weight_is_refused(model):
    optimizer = torch.optim.AdamW(model.parameters())
    model[0].requires_grad_(False)
    with pytest.raises(VerificationError, match="has 2 weights that are not trainable"):
        check_optimizer(model, optimizer)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"early_stopping": {}}, "early_stopping"), ({"final_model": "best"}, "final_model: best")],
)
def test_judging_by_validation_needs_some(settings, key):
    # A share is asked for; of a few rows it may be none.
    data = {"sources": [{"path": "rows.jsonl"}], "split": {"validation": 0.01}}
    stage = SftStage.model_validate({"stage": "sft", "data": data, **settings})
    check_validation(stage, 3)
    with pytest.raises(ConfigError, match=f"`{key}` looks at validation"):
        check_validation(stage, 0)


def test_data_whose_audit_found_damage_are_not_trained_on(make_job):
    job = make_job()
    tokenizer = load_tokenizer(job.recipe.model)
    data = load_data(job, tokenizer)
    found = load_json(data.folder / "report.json")
    found["audit"][0]["failures"] = 3
    write_json(data.folder / "report.json", found)
    details = load_manifest(data.folder)
    write_manifest(data.folder, {k: v for k, v in details.items() if k != "files"})
    try:
        with pytest.raises(DataError, match="mask audit: 3 of 40 rows fail"):
            load_data(job, tokenizer)
    finally:  # other tests have the same cache
        shutil.rmtree(data.folder)
