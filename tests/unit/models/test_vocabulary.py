import contextlib
import copy

import pytest

from posttrain.config.model import ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.load import load_base_config
from posttrain.models.vocabulary import check_vocabulary


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return copy.deepcopy(tiny_tokenizer)


@pytest.fixture
def config(cache_dir):
    return load_base_config(ModelConfig(path="tiny"))


def fill(tokenizer, config):
    """Give the tokenizer as many tokens as the model has rows."""
    tokenizer.add_tokens([f"word{i}" for i in range(config.vocab_size - len(tokenizer))])
    return tokenizer


def test_as_many_tokens_as_rows_are_fine(tokenizer, config):
    check_vocabulary(fill(tokenizer, config), config, "tiny")


def test_one_token_more_is_one_clear_line(tokenizer, config):
    fill(tokenizer, config).add_tokens(["more"])
    with pytest.raises(ConfigError, match=f"model tiny rows for {config.vocab_size:,}") as error:
        check_vocabulary(tokenizer, config, "tiny")
    assert "\n" not in str(error.value)
    assert "extend-tokenizer" in str(error.value)


@pytest.mark.parametrize("written", [False, True])
def test_a_special_token_without_a_row_is_fine_unless_the_template_writes_it(
    tokenizer, config, written
):
    fill(tokenizer, config).add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert len(tokenizer) == config.vocab_size + 1
    tokenizer.chat_template += "{{ '<image>' }}" if written else ""
    with pytest.raises(ConfigError) if written else contextlib.nullcontext():
        check_vocabulary(tokenizer, config, "tiny")
