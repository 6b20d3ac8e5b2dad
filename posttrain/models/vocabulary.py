"""Whether a tokenizer's tokens have rows in a model's embedding."""

from __future__ import annotations

from typing import Any

from posttrain.errors import ConfigError


def check_vocabulary(tokenizer: Any, config: Any, model: str) -> None:
    """Check that a model has an embedding row for every token that a text may hold.

    Special tokens that nothing writes may lack one: Gemma 3's text models have an image token so.

    Args:
        tokenizer: Of the stage.
        config: The model's configuration.
        model: The model's name, for the error.

    Raises:
        ConfigError: A token has no row.
    """
    rows = config.get_text_config().vocab_size
    if len(tokenizer) <= rows:
        return
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    template = str(tokenizer.chat_template or "")
    ends = {tokenizer.bos_token, tokenizer.eos_token}
    unused = {token for token in special - ends if token not in template}
    beyond = [t for t, i in tokenizer.get_vocab().items() if i >= rows and t not in unused]
    if beyond:
        raise ConfigError(
            f"the tokenizer {tokenizer.name_or_path} has {len(tokenizer):,} tokens, the model "
            f"{model} rows for {rows:,}: {len(beyond):,} tokens would have no embedding",
            hint="leave model.tokenizer away to use the model's own tokenizer, or grow the model "
            "with `posttrain extend-tokenizer`",
        )
