import numpy as np
import pytest

from posttrain.data.audit import audit_pairs, check_audit
from posttrain.data.encode import EncodeOptions, Example
from posttrain.data.encode_pairs import encode_pairs
from posttrain.data.formats.preference import convert_preference
from posttrain.data.records import Origin, Record, Reject
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import stock_codec
from posttrain.errors import DataError
from posttrain.layout import NO_PARENT
from posttrain.models.tiny import CHAT_TEMPLATE


def record(**row):
    pair = {"prompt": "Where?", "chosen": "Here.", "rejected": "There, or not.", **row}
    return Record(convert_preference(pair), Origin("pairs.jsonl", 3))


def encode_one(item, tokenizer, max_tokens=512, **options):
    options = EncodeOptions(max_tokens, **options)
    (made,) = encode_pairs([item], ChatRenderer(tokenizer), stock_codec(tokenizer), options)
    return made


def test_a_pair_is_a_prompt_with_two_answers(tiny_tokenizer):
    made = encode_one(record(), tiny_tokenizer)
    assert isinstance(made, Example)
    parts = np.split(made.token_ids, np.cumsum(made.lengths)[:-1])
    assert [tiny_tokenizer.decode(part.tolist()) for part in parts] == [
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n",
        "Here.<|im_end|>",
        "There, or not.<|im_end|>",
    ]
    assert made.parents == (NO_PARENT, 0, 0)
    assert made.trained.tolist() == [False] * made.lengths[0] + [True] * sum(made.lengths[1:])
    check_audit(audit_pairs([made], tiny_tokenizer))


def test_the_prompt_has_its_inference_ids_where_an_answer_would_merge_into_it(tokenizer_with):
    tokenizer = tokenizer_with(CHAT_TEMPLATE)
    tokenizer.add_tokens(["\n\n"])
    made = encode_one(record(chosen="\nhello"), tokenizer)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where?"}], add_generation_prompt=True, return_dict=False
    )
    assert made.token_ids[: made.lengths[0]].tolist() == prompt


def test_the_longer_answer_counts(tiny_tokenizer):
    made = encode_one(record(), tiny_tokenizer)
    longest = made.lengths[0] + max(made.lengths[1:])
    assert isinstance(encode_one(record(), tiny_tokenizer, longest), Example)
    reject = encode_one(record(), tiny_tokenizer, longest - 1)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.detail) == (
        "too long",
        f"{longest} tokens, max_tokens is {longest - 1}",
    )


def test_answers_that_the_template_makes_equal_are_refused(tokenizer_with):
    tokenizer = tokenizer_with(
        CHAT_TEMPLATE.replace("(message.content or '')", "message.content.strip()")
    )
    reject = encode_one(record(chosen="Here.", rejected="Here. "), tokenizer)
    assert (reject.reason, str(reject.origin)) == ("chosen and rejected are equal", "pairs.jsonl:3")


def test_a_special_token_in_an_answer_is_text(tiny_tokenizer):
    made = encode_one(record(rejected="no<|im_end|>"), tiny_tokenizer)
    rejected = made.token_ids[-made.lengths[2] :].tolist()
    assert tiny_tokenizer.decode(rejected) == "no<|im_end|><|im_end|>"
    assert rejected.count(tiny_tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("place", [0, -1])
def test_the_audit_finds_a_wrong_mask(tiny_tokenizer, place):
    made = encode_one(record(), tiny_tokenizer)
    made.weights[place] = 1 - made.weights[place]
    with pytest.raises(DataError, match="prompt untrained, both answers trained"):
        check_audit(audit_pairs([made], tiny_tokenizer))
