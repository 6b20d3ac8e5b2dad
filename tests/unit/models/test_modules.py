import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.models.modules import (
    describe_modules,
    find_names,
    find_stack,
    is_router,
    layer_of,
)

NAMES = [
    "model.embed_tokens",
    *(f"model.layers.{i}.{part}" for i in (0, 1, 2, 10, 11) for part in ("mlp.up_proj", "norm")),
    "model.norm",
    "lm_head",
]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("lm_head", ["lm_head"]),
        ("model.norm", ["model.norm"]),
        ("layers.1.norm", ["model.layers.1.norm"]),
        ("layers.1", ["model.layers.1.mlp.up_proj", "model.layers.1.norm"]),
        ("model.layers.1-10.norm", [f"model.layers.{i}.norm" for i in (1, 2, 10)]),
        ("layers.*.mlp", [f"model.layers.{i}.mlp.up_proj" for i in (0, 1, 2, 10, 11)]),
        (r".*\.(0|11)\.norm", ["model.layers.0.norm", "model.layers.11.norm"]),
        ("embed_*", ["model.embed_tokens"]),
    ],
)
def test_a_pattern_means_a_module_and_what_is_in_it(make_model, pattern, meant):
    assert find_names([pattern], NAMES, make_model(), "freeze") == set(meant)


@pytest.mark.parametrize("pattern", ["orm", "layers.3", "head", "layers", "model.layer"])
def test_a_part_of_a_name_means_nothing_by_itself(make_model, pattern):
    names = ["model.norm", "lm_head", "model.layers_old.1"]
    with pytest.raises(ConfigError, match=f"freeze: `{pattern}` names nothing") as raised:
        find_names([pattern], names, make_model(), "freeze")
    assert "model.layers.0-1.self_attn.q_proj" in str(raised.value)


@pytest.mark.parametrize("pattern", ["layers.5-2", "layers.(1"])
def test_what_is_no_pattern_is_said(make_model, pattern):
    with pytest.raises(ConfigError, match=r"freeze: `layers.*` (has no n|is no regular)"):
        find_names([pattern], NAMES, make_model(), "freeze")


def test_layers_of_a_kind_are_told_together(make_model):
    text = describe_modules(make_model(num_hidden_layers=3))
    assert text.startswith("model.embed_tokens, model.layers.0-2.self_attn.q_proj, ")
    assert text.endswith("model.norm, lm_head")
    assert text.count("q_proj") == 1


def test_the_stack_is_the_list_of_layers(make_model):
    model = make_model()
    assert find_stack(model) == "model.layers"
    assert layer_of("model.layers.12.mlp", "model.layers") == 12
    assert layer_of("lm_head", "model.layers") is None
    assert find_stack(torch.nn.Linear(2, 2)) == ""


def test_routers_are_known_by_name_or_class():
    assert is_router("model.layers.0.mlp.gate", torch.nn.Linear(2, 2))
    assert not is_router("model.layers.0.mlp.gate_proj", torch.nn.Linear(2, 2))
    assert is_router("x.choose", type("TopKRouter", (torch.nn.Linear,), {})(2, 2))
