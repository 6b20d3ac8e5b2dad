import json

import numpy as np
import pytest

from posttrain.data.encode import EncodeOptions, Example, encode_prompt, encode_records
from posttrain.data.records import Origin, Record, Reject
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import build_codec, stock_codec
from posttrain.models.prefix_templates import compile_prefixes
from posttrain.models.tiny import CHAT_TEMPLATE
from tests.unit.data.conftest import assistant, user

ALL = EncodeOptions(max_tokens=4096)


@pytest.fixture
def renderer(tiny_tokenizer):
    return ChatRenderer(tiny_tokenizer)


def encode_one(record, renderer, options=ALL):
    codec = build_codec(renderer.tokenizer)
    (item,) = encode_records([record], renderer, codec, options)
    return item


def prompt_ids(record, tokenizer):
    return encode_prompt(record.content, ChatRenderer(tokenizer), stock_codec(tokenizer))


def trained_text(example, tokenizer):
    return tokenizer.decode(example.token_ids[example.trained].tolist())


def test_pieces_join_to_the_render_and_carry_the_mask(record, renderer, tiny_tokenizer):
    made = encode_one(record(user("One?"), assistant("1"), user("Two?"), assistant("2")), renderer)

    assert tiny_tokenizer.decode(made.token_ids.tolist()) == (
        "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
        "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    )
    assert trained_text(made, tiny_tokenizer) == "1<|im_end|>2<|im_end|>"
    assert (made.token_ids.dtype, made.weights.dtype) == (np.int32, np.float32)
    assert not made.retokenized


def test_last_only_trains_the_last_turn(record, renderer, tiny_tokenizer):
    chat = record(user("One?"), assistant("1"), user("Two?"), assistant("2"))
    made = encode_one(chat, renderer, EncodeOptions(4096, "last_assistant"))

    assert trained_text(made, tiny_tokenizer) == "2<|im_end|>"


@pytest.fixture
def merging(tokenizer_with):
    """A tokenizer that has one token for two line breaks, as most have."""
    tokenizer = tokenizer_with(CHAT_TEMPLATE)
    tokenizer.add_tokens(["\n\n"])
    return tokenizer


def test_completion_does_not_merge_into_the_prompt(record, merging):
    chat = record(user("Say"), assistant("\nhello"))
    made = encode_one(chat, ChatRenderer(merging))
    prompt = prompt_ids(chat, merging)

    assert made.retokenized
    assert made.token_ids[: len(prompt)].tolist() == prompt
    assert not made.trained[: len(prompt)].any()
    assert trained_text(made, merging) == "\nhello<|im_end|>"


def test_earlier_turn_that_merges_leaves_the_last_prompt_as_at_inference(record, merging):
    chat = record(user("Say"), assistant("\nhello"), user("more"), assistant("bye"))
    made = encode_one(chat, ChatRenderer(merging))
    prompt = prompt_ids(chat, merging)

    assert made.token_ids[: len(prompt)].tolist() == prompt
    assert merging.convert_tokens_to_ids("\n\n") in prompt
    assert trained_text(made, merging) == "hello<|im_end|>bye<|im_end|>"
    assert not made.retokenized


def test_tokenizer_that_puts_a_space_before_every_text_adds_none_inside(record, tokenizer_with):
    # As Llama 2's does; piece by piece, every turn would begin with a space of its own.
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<|im_start|>", "<|im_end|>", "▁"]
    words += [f"▁{w}" for w in ("user", "assistant", "one", "two")]
    words += list("user:asitnow| ")
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=(
            "{% for m in messages %}{{ m.role + ' ' + m.content }}"
            "{% if m.role == 'assistant' %}<|im_end|>{% else %} {% endif %}{% endfor %}"
            "{% if add_generation_prompt %}assistant{% endif %}"
        ),
    )
    made = encode_one(record(user("one"), assistant("two")), ChatRenderer(tokenizer))

    whole = tokenizer("user one assistant two<|im_end|>", add_special_tokens=False)["input_ids"]
    assert made.token_ids.tolist() == whole
    assert tokenizer.convert_ids_to_tokens(made.token_ids[made.trained].tolist()) == [
        "▁two",
        "<|im_end|>",
    ]


def test_length_at_the_limit_is_kept_and_one_more_is_rejected(record, renderer):
    chat = record(user("a"), assistant("b"))
    length = len(encode_one(chat, renderer).token_ids)

    assert isinstance(encode_one(chat, renderer, EncodeOptions(length)), Example)
    reject = encode_one(chat, renderer, EncodeOptions(length - 1))
    assert (reject.reason, reject.detail) == (
        "too long",
        f"{length} tokens, max_tokens is {length - 1}",
    )


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([user("a"), assistant("b"), user("c")], "does not end with an assistant turn"),
        ([user("a")], "no assistant turn"),
        ([user("a"), assistant("\ufdd2")], "a text holds a noncharacter"),
        ([user("a"), assistant("\udc80")], "a text is not valid Unicode"),
    ],
)
def test_row_that_cannot_be_encoded_is_rejected(record, renderer, messages, reason):
    reject = encode_one(record(*messages, line=5), renderer)

    assert isinstance(reject, Reject)
    assert (reject.reason, reject.origin) == (reason, Origin("rows.jsonl", 5))


def test_order_and_origins_survive_many_chunks_with_rejects(record, renderer):
    records = [
        record(user(f"q{i}"), *([] if i % 7 == 0 else [assistant(f"a{i}")]), line=i)
        for i in range(1200)
    ]
    items = list(encode_records(records, renderer, stock_codec(renderer.tokenizer), ALL))

    origins = [i.origin if isinstance(i, Reject) else i.record.origin for i in items]
    assert [origin.line for origin in origins] == list(range(1200))
    assert [isinstance(item, Reject) for item in items] == [i % 7 == 0 for i in range(1200)]


def test_mask_is_that_of_the_templates_own_marks(record, renderer, tiny_tokenizer):
    assert "generation" in CHAT_TEMPLATE
    chat = record(user("One?"), assistant("1"), user("Two?"), assistant("2\n3")).content
    made = encode_one(Record(chat, Origin("a", 1)), renderer)
    marked = tiny_tokenizer.apply_chat_template(
        list(chat.messages), return_dict=True, return_assistant_tokens_mask=True
    )

    assert made.token_ids.tolist() == marked["input_ids"]
    assert made.trained.tolist() == [bool(x) for x in marked["assistant_masks"]]


@pytest.mark.parametrize(("suffix", "ends"), [("<|im_end|>\n", True), ("\n\n", False)])
def test_prefixes_and_suffixes_train_from_content_to_the_end_token(
    record, tokenizer_with, suffix, ends
):
    prefixes = {f"{r}_prefix": f"[{r}] " for r in ("system", "user", "assistant")}
    given = {**prefixes, **{key.replace("prefix", "suffix"): suffix for key in prefixes}}
    tokenizer = tokenizer_with(compile_prefixes(json.dumps(given), "here"))
    chat = record(user("One?"), assistant("1"), user("Two?"), assistant("2"))
    made = encode_one(chat, ChatRenderer(tokenizer))
    if not ends:
        assert isinstance(made, Reject)
        assert made.reason == "the template ends no assistant turn"
        return
    assert trained_text(made, tokenizer) == "1<|im_end|>2<|im_end|>"
    prompt = prompt_ids(chat, tokenizer)
    assert made.token_ids[: len(prompt)].tolist() == prompt
    assert tokenizer.decode(prompt).endswith("<|im_end|>\n[assistant] ")
