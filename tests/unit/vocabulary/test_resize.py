import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.vocabulary.bpe import load_byte_bpe
from posttrain.vocabulary.resize import grow_model


def make_model(rows, *, tied):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=rows, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4, tie_word_embeddings=tied,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


@pytest.fixture
def grown(build):
    # 257 tokens and <eos>: new ids are 258 and 259.
    return load_byte_bpe(build("a+b"), "small").extend([("ab", "c"), ("abc", "d")])


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_means_of_their_pieces(grown, tied):
    model = make_model(258, tied=tied)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    before = [layer.weight.detach().clone() for layer in layers]
    rows = grow_model(model, grown, row_multiple=64)
    assert rows == {"rows_before": 258, "rows_after": 320, "tied": tied}
    assert model.config.vocab_size == 320
    ids = grown.token_ids
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    assert (layers[0].weight is layers[1].weight) == tied
    for layer, old in zip(layers, before, strict=True):
        assert torch.equal(layer.weight[:258], old)
        assert torch.equal(layer.weight[258], old[[ids["ab"], ids["c"]]].mean(0))
        # Of the three old tokens, not of `abc` and `d`.
        assert torch.equal(layer.weight[259], old[[ids["ab"], ids["c"], ids["d"]]].mean(0))
        torch.testing.assert_close(layer.weight[260:], old.mean(0).expand(60, -1))


def test_spare_rows_are_used_first(grown):
    model = make_model(300, tied=True)
    before = model.get_input_embeddings().weight.detach().clone()
    rows = grow_model(model, grown, row_multiple=64)
    after = model.get_input_embeddings().weight
    assert rows["rows_before"] == rows["rows_after"] == model.config.vocab_size == 300
    changed = [row for row in range(300) if not torch.equal(before[row], after[row])]
    assert changed == [258, 259]


def test_rows_are_what_is_needed_where_no_multiple_is_wanted(grown):
    assert grow_model(make_model(258, tied=False), grown, row_multiple=1)["rows_after"] == 260
