"""Assistant turns in a row, which templates such as Qwen3's write otherwise when they are last."""

import pytest

from posttrain.data.audit import audit_examples
from posttrain.data.encode import EncodeOptions, Example, Reject, encode_records
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import stock_codec
from posttrain.models.tiny import CHAT_TEMPLATE
from tests.unit.data.conftest import assistant, user

# Thinking is written before the last turn, also where there was none.
LAST_TURN_THINKS = CHAT_TEMPLATE.replace(
    "{{- (message.content",
    "{%- if loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{{- (message.content",
).replace(
    "message.content or '')",
    "message.content or '') + (message.tool_calls|tojson if message.tool_calls else '')",
)
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


@pytest.fixture
def encode(record, tokenizer_with):
    def run(*messages, template=LAST_TURN_THINKS):
        tokenizer = tokenizer_with(template)
        made = encode_records(
            [record(*messages)],
            ChatRenderer(tokenizer),
            stock_codec(tokenizer),
            EncodeOptions(4096),
        )
        (item,) = made
        if isinstance(item, Reject):
            return item, item.reason
        assert isinstance(item, Example)
        assert not any(check.failures for check in audit_examples([item], tokenizer))
        return item, tokenizer.decode(item.token_ids[item.trained].tolist())

    return run


def test_turns_in_a_row_become_one_where_the_template_refuses_them(encode):
    made, trained = encode(user("q"), assistant("Let me see."), assistant("It is 12."))

    assert made.joined
    assert trained == "<think>\n\n</think>\n\nLet me see.\n\nIt is 12.<|im_end|>"
    assert [m["role"] for m in made.record.content.messages] == ["user", "assistant"]


def test_words_come_before_calls(encode):
    made, trained = encode(
        user("q"),
        assistant("Let me see."),
        assistant("", tool_calls=[CALL]),
        user("r"),
        assistant("a"),
    )

    assert made.joined
    assert trained.startswith('Let me see.[{"type": "function"')


def test_words_behind_a_call_cannot_be_joined_with_it(encode):
    _, reason = encode(user("q"), assistant("", tool_calls=[CALL]), assistant("Done."))

    assert reason == "training prompt and inference prompt differ"


def test_turns_stay_apart_where_the_template_takes_them(encode):
    made, trained = encode(user("q"), assistant("a"), assistant("b"), template=CHAT_TEMPLATE)

    assert not made.joined
    assert trained == "a<|im_end|>b<|im_end|>"


def test_a_row_without_such_turns_keeps_its_own_reason(encode):
    _, reason = encode(user("q\ufdd0"), assistant("a"))

    assert reason == "a text holds a noncharacter"


def test_turns_of_other_weights_are_refused_with_the_reason(encode):
    item, reason = encode(user("q"), assistant("a", loss_weight=0), assistant("b"))

    assert reason == "training prompt and inference prompt differ"
    assert "in a row" in item.detail
    assert "loss_weight" in item.detail
