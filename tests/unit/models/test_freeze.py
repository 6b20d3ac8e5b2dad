import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.models.freeze import freeze_parts
from posttrain.training.model import enable_checkpointing

IDS = torch.arange(3, 40)[None]


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def names_of(model, *starts):
    return {name for name, _ in model.named_parameters() if name.startswith(starts)}


def test_what_is_frozen_is_not_trained_and_all_else_is(make_model):
    model = make_model(num_hidden_layers=3, tie_word_embeddings=False)
    everything = trained(model)
    freeze_parts(model, (), ("embed_tokens", "layers.0-1"))
    frozen = names_of(model, "model.embed_tokens", "model.layers.0.", "model.layers.1.")
    assert trained(model) == everything - frozen


def test_only_what_is_named_is_trained(make_model):
    model = make_model(num_hidden_layers=3, tie_word_embeddings=False)
    freeze_parts(model, ("layers.2", "lm_head"), ("layers.*.mlp",))
    wanted = {n for n in names_of(model, "model.layers.2.", "lm_head") if ".mlp." not in n}
    assert trained(model) == wanted


def test_nothing_said_changes_nothing(make_model):
    model = make_model()
    freeze_parts(model, (), ())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_tied_weights_are_frozen_by_either_name(make_model, name):
    model = make_model(tie_word_embeddings=True)
    freeze_parts(model, (), (name,))
    assert not model.lm_head.weight.requires_grad
    model = make_model(tie_word_embeddings=True)
    freeze_parts(model, (name,), ())
    assert trained(model) == {"model.embed_tokens.weight"}


def test_a_fresh_reward_head_is_always_trained(make_model):
    model = make_model()
    model.score = torch.nn.Linear(32, 1, bias=False)
    freeze_parts(model, ("layers.1",), ())
    assert model.score.weight.requires_grad
    assert not model.model.layers[0].mlp.up_proj.weight.requires_grad


@pytest.mark.parametrize(
    ("train_only", "freeze", "message"),
    [
        (("layers.7",), (), r"train_only: `layers\.7` names nothing"),
        ((), ("wte",), r"freeze: `wte` names nothing.*model\.layers\.0-1\.mlp"),
        ((), ("model", "lm_head"), "freeze: nothing is left to train"),
        (("layers.0",), ("layers",), "freeze: nothing is left to train"),
    ],
)
def test_what_cannot_be_meant_is_refused(make_model, train_only, freeze, message):
    with pytest.raises(ConfigError, match=message):
        freeze_parts(make_model(), train_only, freeze)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_differentiated_below_the_lowest_trained_layer(make_model, checkpointing):
    model = make_model(num_hidden_layers=3, tie_word_embeddings=False).train()
    if checkpointing:
        enable_checkpointing(model)
    freeze_parts(model, (), ("embed_tokens", "layers.0-1"))
    needs: dict[int, bool] = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda _, __, out, number=number: needs.update({number: out.requires_grad})
        )
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    assert needs == {0: False, 1: False, 2: True}
    assert model.model.layers[2].mlp.up_proj.weight.grad.abs().sum() > 0
