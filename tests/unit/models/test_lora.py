import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from posttrain.config.model import LoraConfig
from posttrain.errors import ConfigError
from posttrain.layout import Segment, build_batch
from posttrain.models.load import load_adapter
from posttrain.models.lora import add_lora, describe_adapters, merge_into
from posttrain.models.packed import prepare_packed, score_batch
from posttrain.training.model import enable_checkpointing

IDS = torch.arange(3, 40)[None]
ROWS = (90, 91)


def trained(model):
    return [name for name, p in model.named_parameters() if p.requires_grad]


def adapted(model):
    return {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained(model)}


def train(model, steps=3):
    """Take steps on one batch in the packed form, as the trainer does."""
    import numpy as np

    ids = np.array([*range(3, 40), *ROWS, 5])
    segments = [Segment(ids, np.array([0.0] + [1.0] * (len(ids) - 1)))]
    batch = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in build_batch(segments).items()
    }
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (-score_batch(model, batch).logprobs_N.mean()).backward()
        optimizer.step()
    model.eval()
    return batch


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_fresh_adapters_change_no_output(make_model):
    model, ids = make_model(), torch.arange(3, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
        assert torch.equal(add_lora(model, LoraConfig(rank=4))(ids).logits, before)


def test_only_adapters_are_trainable(make_model):
    names = trained(add_lora(make_model(), LoraConfig(rank=4)))
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)


def test_auto_means_attention_where_there_are_experts():
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            moe_intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
        )
    )
    places = adapted(add_lora(model, LoraConfig(rank=2)))
    assert places == {f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qkvo"}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # peft sets it
@pytest.mark.parametrize("targets", ["auto", "all-linear", ("c_attn", "c_fc", "c_proj")], ids=str)
def test_transposed_layers_are_found_too(targets):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))
    places = adapted(add_lora(model, LoraConfig(rank=3, targets=targets)))
    assert len(places) == 8


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({"targets": ("q_proj", "v_proj")}, ["0.self_attn.q_proj", "0.self_attn.v_proj",
                                             "1.self_attn.q_proj", "1.self_attn.v_proj"]),
        ({"targets": ("layers.1.mlp.up_proj",)}, ["1.mlp.up_proj"]),
        ({"targets": ("self_attn",), "layers": (0,)}, [f"0.self_attn.{n}_proj" for n in "qkvo"]),
        ({"targets": (r".*\.1\..*\.(up|down)_proj",)}, ["1.mlp.up_proj", "1.mlp.down_proj"]),
        ({"targets": ("mlp",), "train_in_full": ("layers.0", "up_proj")},
         ["1.mlp.gate_proj", "1.mlp.down_proj"]),
    ],
)  # fmt: skip
def test_adapters_are_where_they_are_wanted_and_nowhere_else(make_model, settings, places):
    model = add_lora(make_model(), LoraConfig(rank=2, **settings))
    found = {name for name in adapted(model) if ".modules_to_save." not in name}
    assert found == {f"model.layers.{place}" for place in places}


def test_layers_may_be_ranges(make_model):
    wrapped = add_lora(
        make_model(num_hidden_layers=5), LoraConfig(rank=2, targets=("q_proj",), layers=("1-2", 4))
    )
    assert adapted(wrapped) == {f"model.layers.{i}.self_attn.q_proj" for i in (1, 2, 4)}


def test_a_layer_that_is_not_there_is_said(make_model):
    with pytest.raises(ConfigError, match=r"lora\.layers: 1-2 is no layer.*layers 0 to 1"):
        add_lora(make_model(), LoraConfig(layers=("1-2",)))


def test_patterns_give_some_modules_their_own_rank_and_scale(make_model):
    config = LoraConfig(
        rank=2, alpha=4, rank_pattern={"layers.1": 3, "mlp": 5}, alpha_pattern={"up_proj": 20}
    )
    model = add_lora(make_model(), config)
    layer = model.base_model.model.model.layers
    rank = {
        (i, name): getattr(part, name).r["default"]
        for i in (0, 1)
        for part, name in ((layer[i].self_attn, "q_proj"), (layer[i].mlp, "up_proj"))
    }
    assert rank == {(0, "q_proj"): 2, (0, "up_proj"): 5, (1, "q_proj"): 3, (1, "up_proj"): 3}
    assert layer[0].mlp.up_proj.scaling["default"] == 20 / 5
    assert layer[0].mlp.down_proj.scaling["default"] == 4 / 5


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_hits_no_adapter_is_refused(make_model, key):
    config = LoraConfig(targets=("q_proj",), **{key: {"mlp": 8}})
    with pytest.raises(ConfigError, match=rf"lora\.{key}: `mlp` names nothing"):
        add_lora(make_model(), config)


def test_rank_stabilized_scale_is_by_the_root(make_model):
    model = add_lora(make_model(), LoraConfig(rank=16, alpha=8, rslora=True))
    assert model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"] == 2.0


@pytest.mark.parametrize("init", ["gaussian", "orthogonal"])
def test_other_beginnings_change_no_output_either(make_model, init):
    model = make_model()
    before = logits(model)
    wrapped = add_lora(model, LoraConfig(rank=4, init=init))
    assert torch.allclose(logits(wrapped), before, atol=1e-5)
    first = wrapped.base_model.model.model.layers[0].mlp.up_proj.lora_A["default"].weight
    plain = add_lora(make_model(), LoraConfig(rank=4)).base_model.model.model.layers[0]
    assert not torch.allclose(
        first.std(), plain.mlp.up_proj.lora_A["default"].weight.std(), rtol=0.1
    )


KINDS = {
    "plain": {},
    "dora": {"dora": True},
    "rslora": {"rslora": True, "rank_pattern": {"mlp": 8}},
    "norms": {"train_in_full": ("model.norm", "input_layernorm")},
    "head": {"train_in_full": ("lm_head",)},
    "embeddings": {"train_in_full": ("embed_tokens",)},
    "both": {"train_in_full": ("embed_tokens", "lm_head"), "dora": True},
    "rows": {},
    "rows-dora": {"dora": True, "train_in_full": ("model.norm",)},
    "embedding-adapter": {"targets": ("q_proj", "embed_tokens")},
}


WHOLE = ("head", "embeddings", "both")
"""Of these the file holds whole matrices with a row for each token."""


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_is_saved_loaded_and_merged(make_model, tmp_path, kind, tied):
    config = LoraConfig(rank=4, alpha=8, **KINDS[kind])
    rows = ROWS if kind.startswith("rows") else ()
    model = make_model(tie_word_embeddings=tied)
    plain = copy.deepcopy(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    prepare_packed(model)
    model = add_lora(model, config, rows=rows)
    fresh = logits(model)
    assert torch.equal(fresh, logits(plain))
    batch = train(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            name = name.removeprefix("base_model.model.").replace(".base_layer", "")
            name = name.replace(".original_module", "").replace(".token_adapter", "")
            assert torch.equal(parameter, before[name]), name
    wanted = logits(model)
    assert not torch.allclose(wanted, fresh, atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(len(tensor) < 97 for tensor in stored.values()) == (kind not in WHOLE)
    again = copy.deepcopy(plain)
    prepare_packed(again)
    loaded = load_adapter(again, tmp_path / "adapter").eval()
    assert torch.allclose(logits(loaded), wanted, atol=1e-6)
    with torch.no_grad():
        scores = score_batch(loaded, batch).logprobs_N
        ids = batch["input_ids"]
        straight = loaded(input_ids=ids).logits[0, :-1].log_softmax(-1)
    assert torch.allclose(scores, straight.gather(1, ids[0, 1:, None])[:, 0], atol=1e-5)
    merged = merge_into(load_adapter(copy.deepcopy(plain), tmp_path / "adapter"))
    assert torch.allclose(logits(merged), wanted, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    written = type(plain).from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(written), wanted, atol=1e-5)
    same = written.lm_head.weight is written.model.embed_tokens.weight
    assert same == (tied and kind != "embedding-adapter")


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_trained_and_no_others(make_model, tied):
    model = make_model(tie_word_embeddings=tied)
    before = [layer.weight.clone() for layer in (model.model.embed_tokens, model.lm_head)]
    prepare_packed(model)
    model = add_lora(model, LoraConfig(rank=4), rows=ROWS)
    deltas = [p for n, p in model.named_parameters() if "trainable_tokens" in n]
    assert [tuple(p.shape) for p in deltas] == [(2, 32)] * (1 if tied else 2)
    train(model)
    merged = merge_into(model)
    others = [i for i in range(97) if i not in ROWS]
    for old, layer in zip(before, (merged.model.embed_tokens, merged.lm_head), strict=True):
        assert torch.equal(old[others], layer.weight[others])
        assert (old[list(ROWS)] != layer.weight[list(ROWS)]).any(1).all()


def test_trained_rows_keep_the_bias_of_the_output_layer(make_model):
    model = make_model(tie_word_embeddings=False)
    model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 97))
    before = logits(model)
    assert torch.equal(logits(add_lora(model, LoraConfig(rank=2), rows=ROWS)), before)


def test_rows_are_not_trained_twice(make_model):
    config = LoraConfig(rank=2, train_in_full=("embed_tokens",))
    names = trained(add_lora(make_model(tie_word_embeddings=False), config, rows=ROWS))
    assert [n for n in names if ".layers." not in n] == [
        "base_model.model.model.embed_tokens.modules_to_save.default.weight",
        "base_model.model.lm_head.token_adapter.trainable_tokens_delta.default",
    ]
    with pytest.raises(ConfigError, match=r"embed_tokens has rows that are trained.*train_in_full"):
        add_lora(make_model(), LoraConfig(targets=("embed_tokens",)), rows=ROWS)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")  # peft sets it
def test_tied_embeddings_that_peft_cannot_keep_so_are_refused():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(
        ConfigError, match=r"train_in_full: peft cannot keep lm_head and .*wte tied"
    ):
        add_lora(model, LoraConfig(train_in_full=("wte",)))


def test_a_short_name_does_not_mean_all_that_end_like_it(make_model):
    model = add_lora(make_model(), LoraConfig(rank=2, train_in_full=("model.norm",)))
    assert [n for n in trained(model) if "lora_" not in n] == [
        "base_model.model.model.norm.modules_to_save.default.weight"
    ]


def test_nothing_is_differentiated_below_the_lowest_adapter(make_model):
    model = make_model(num_hidden_layers=3)
    enable_checkpointing(model)
    wrapped = add_lora(model, LoraConfig(rank=2, layers=(2,))).train()
    needs: dict[int, bool] = {}
    for number, layer in enumerate(model.model.layers):
        layer.register_forward_hook(
            lambda _, __, out, number=number: needs.update({number: out.requires_grad})
        )
    wrapped(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    assert needs == {0: False, 1: False, 2: True}


def test_the_settings_are_written_in_the_short_way(make_model, tmp_path):
    add_lora(make_model(), LoraConfig(rank=2)).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert sorted(stored["target_modules"]) == names


def test_a_line_says_what_is_trained(make_model):
    config = LoraConfig(rank=2, targets=("q_proj", "up_proj"), train_in_full=("model.norm",))
    wrapped = add_lora(make_model(tie_word_embeddings=False), config, rows=ROWS)
    assert describe_adapters(wrapped) == (
        "adapters on 4 modules (q_proj, up_proj); model.norm in full; 2 rows of "
        "model.embed_tokens; 2 rows of lm_head"
    )


def test_unknown_targets_are_answered_with_the_names_there_are(make_model):
    with pytest.raises(ConfigError, match=r"lora\.targets: `query` .*modules of.*q_proj") as raised:
        add_lora(make_model(), LoraConfig(targets=("query",)))
    assert "\n" not in str(raised.value)


def test_dora_on_the_output_layer_is_refused(make_model):
    config = LoraConfig(targets=("q_proj", "lm_head"), dora=True)
    with pytest.raises(ConfigError, match="dora on the output layer lm_head is not supported"):
        add_lora(make_model(), config)


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_on_the_output_layer_scores_as_the_merged_model_does(make_model, tied):
    import numpy as np

    model = make_model(tie_word_embeddings=tied, attn_implementation="posttrain_sdpa")
    prepare_packed(model)
    wrapped = add_lora(model, LoraConfig(rank=2, targets=("q_proj", "lm_head"))).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    ids = np.array([5, 6, 7, 8])
    packed = build_batch([Segment(ids, np.array([0.0, 1.0, 1.0, 1.0]))]).items()
    batch = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in packed}
    found = score_batch(wrapped, batch).logprobs_N.detach()
    merged = merge_into(wrapped)
    merged.set_attn_implementation("sdpa")
    with torch.no_grad():
        logp = merged(torch.from_numpy(ids)[None]).logits[0, :-1].log_softmax(-1)
    expected = logp.gather(-1, torch.from_numpy(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
