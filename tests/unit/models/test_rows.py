import json

import pytest

from posttrain.config.model import LoraConfig, ModelConfig
from posttrain.errors import CheckpointError, ConfigError
from posttrain.models.load import load_tokenizer
from posttrain.models.rows import find_rows

TINY = ModelConfig(path="tiny")


def test_a_model_without_added_tokens_has_none():
    assert find_rows(LoraConfig(), TINY, 100) == []
    assert find_rows(LoraConfig(train_rows=()), TINY, 100) == []
    with pytest.raises(ConfigError, match=r"train_rows: added: model tiny has no tokens"):
        find_rows(LoraConfig(train_rows="added"), TINY, 100)


@pytest.mark.parametrize("choice", ["auto", "added"])
def test_added_tokens_are_found_in_the_folder(tmp_path, choice):
    report = {"tokens": [{"id": 12, "text": "b"}, {"id": 11, "text": "a"}]}
    (tmp_path / "vocabulary.json").write_text(json.dumps(report))
    model = ModelConfig(path=str(tmp_path))
    assert find_rows(LoraConfig(train_rows=choice), model, 100) == [11, 12]
    (tmp_path / "vocabulary.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"vocabulary\.json: cannot be read"):
        find_rows(LoraConfig(train_rows=choice), model, 100)


def test_tokens_and_ids_may_be_named():
    vocabulary = load_tokenizer(TINY).get_vocab()
    spaced = next(token for token in vocabulary if token.startswith("Ġ") and len(token) > 2)
    config = LoraConfig(train_rows=(7, "<|im_end|>", spaced.replace("Ġ", " "), 7))
    wanted = {7, vocabulary["<|im_end|>"], vocabulary[spaced]}
    assert find_rows(config, TINY, len(vocabulary)) == sorted(wanted)


@pytest.mark.parametrize("item", ["no such token", 10**6])
def test_an_unknown_token_is_refused(item):
    with pytest.raises(ConfigError, match=rf"lora\.train_rows: '?{item}'? is no token"):
        find_rows(LoraConfig(train_rows=(item,)), TINY, 2048)
