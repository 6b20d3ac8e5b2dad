"""Tool calling with the real Qwen3 tokenizer: what calls or answers is trained, results never."""

import json
from collections import Counter
from itertools import groupby

import pytest

from posttrain.data.audit import audit_examples
from posttrain.data.encode import EncodeOptions, Reject, encode_records
from posttrain.data.formats import FORMATS
from posttrain.data.readers import read_rows
from posttrain.data.records import Origin, Record
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import stock_codec
from posttrain.samples.tools import generate_tools


@pytest.fixture(scope="module")
def tokenizer(shared_data):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(shared_data / "tokenizers/qwen3")


def encode(tokenizer, name, rows, *, last_only=False):
    convert = FORMATS[name].convert
    records = [Record(convert(row), Origin("rows", i)) for i, row in enumerate(rows, start=1)]
    options = EncodeOptions(4096, "last_assistant" if last_only else "all_assistant")
    codec = stock_codec(tokenizer)
    items = list(encode_records(records, ChatRenderer(tokenizer), codec, options))
    examples = [item for item in items if not isinstance(item, Reject)]
    assert [c.name for c in audit_examples(examples, tokenizer) if c.failures] == []
    return examples, Counter(item.reason for item in items if isinstance(item, Reject))


def trained_turns(example, tokenizer):
    """Texts of the trained runs, without the thinking that the template writes."""
    ids = example.token_ids.tolist()
    runs = [
        tokenizer.decode([token for token, _ in run])
        for trained, run in groupby(
            zip(ids, example.trained, strict=True), key=lambda pair: pair[1]
        )
        if trained
    ]
    return [run.removeprefix("<think>\n\n</think>\n\n") for run in runs]


def written_turn(message):
    """What the model shall write for a turn, in Qwen3's own notation."""
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    return "\n".join(part for part in (message["content"], *calls) if part) + "<|im_end|>"


def check_turns(examples, tokenizer):
    for example in examples:
        spoken = [m for m in example.record.content.messages if m["role"] == "assistant"]
        assert trained_turns(example, tokenizer) == [written_turn(m) for m in spoken]


def test_sample_conversations_train_every_call_and_every_answer(tokenizer):
    examples, rejects = encode(tokenizer, "dolci", generate_tools(60, 3))

    assert (len(examples), rejects) == (60, {})
    check_turns(examples, tokenizer)
    assert any(len(e.record.content.messages) >= 9 for e in examples)


@pytest.mark.parametrize("last_only", [False, True])
def test_every_real_row_trains_its_calls(tokenizer, shared_data, last_only):
    folder = shared_data / "toolcall"
    rows = [row for _, row in read_rows(folder / "dolci_shaped_DERIVED_from_bfcl.jsonl")]
    rows += [row for _, row in read_rows(folder / "dolci_real_row.jsonl")]

    examples, rejects = encode(tokenizer, "dolci", rows, last_only=last_only)

    assert (len(examples), rejects) == (241, {})
    check_turns(examples, tokenizer)


def test_conversations_with_real_results_do_not_train_them(tokenizer, shared_data):
    rows = [row for _, row in read_rows(shared_data / "llamafactory/glaive_toolcall_en_demo.json")]

    examples, rejects = encode(tokenizer, "sharegpt", rows)

    assert (len(examples), rejects) == (299, {"too long": 1})
    check_turns(examples[:100], tokenizer)


def test_a_call_behind_words_of_its_own_turn_and_turns_in_a_row(tokenizer):
    def turn(role, content=None, calls=None):
        return {"role": role, "content": content, "functions": None, "function_calls": calls}

    head = {**turn("system", "Use."), "functions": '[{"name": "clock"}]'}
    asked = [head, turn("user", "How late?")]
    result, told = turn("environment", "12"), turn("assistant", "It is 12.")
    parted = turn("assistant", "Look:"), turn("assistant", None, "clock()")
    rows = [
        {"messages": [*asked, turn("assistant", "Look:", "clock()"), result, told]},
        {"messages": [*asked, *parted, result, told]},
    ]

    examples, rejects = encode(tokenizer, "dolci", rows)

    assert rejects == {}
    assert [example.joined for example in examples] == [False, True]
    wanted = [
        'Look:\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call><|im_end|>',
        "It is 12.<|im_end|>",
    ]
    assert [trained_turns(example, tokenizer) for example in examples] == [wanted, wanted]
