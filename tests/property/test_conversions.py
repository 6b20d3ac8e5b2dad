"""A record written in one format and then in another is the same, where both can hold it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.formats import FORMATS
from posttrain.data.formats.writers import WRITERS, write_row
from posttrain.data.records import Chat, Preference, RowError

BOUNDED = settings(max_examples=60, deadline=None, derandomize=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
NAMES = st.from_regex(r"[a-z]{1,6}(\.[a-z]{1,4})?", fullmatch=True)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.builds(
    lambda name, arguments: {
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    },
    NAMES,
    st.dictionaries(NAMES, VALUES, max_size=2),
)
KEYS = st.dictionaries(st.sampled_from(["id", "level", "note"]), TEXTS, max_size=2)


def say(role, text):
    return {"role": role, "content": text}


def declare(messages):
    names = dict.fromkeys(
        call["function"]["name"] for message in messages for call in message.get("tool_calls", ())
    )
    schema = {"type": "object", "properties": {}}
    return tuple(
        {"type": "function", "function": {"name": name, "parameters": schema}} for name in names
    )


@st.composite
def chats(draw):
    """Conversations with what some formats have no place for, each of it now and then."""
    messages = [say("system", draw(TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        messages.append(say("user", draw(TEXTS)))
        if draw(st.sampled_from([True, False, False])):
            calls = draw(st.lists(CALLS, min_size=1, max_size=2))
            messages.append({**say("assistant", ""), "tool_calls": calls})
            messages.extend(say("tool", draw(TEXTS)) for _ in calls)
        messages.append(say("assistant", draw(TEXTS)))
    if draw(st.sampled_from([True, False, False])):
        key, value = draw(
            st.sampled_from([("reasoning_content", "why"), ("loss_weight", 0.5), ("name", "n")])
        )
        messages[-1][key] = value
    reference = draw(st.none() | TEXTS)
    return Chat(tuple(messages), declare(messages), reference, draw(KEYS))


@st.composite
def pairs(draw):
    chat = draw(chats())
    prompt = tuple(
        {key: value for key, value in message.items() if key != "loss_weight"}
        for message in chat.messages[:-1]
    )
    chosen, rejected = draw(st.lists(TEXTS, min_size=2, max_size=2, unique=True))
    answers = say("assistant", chosen), say("assistant", rejected)
    return Preference(prompt, *answers, declare(prompt), chat.keys)


def hold(content, kind):
    """Write and read a record in all formats that can hold it."""
    read = {}
    for name, writer in WRITERS.items():
        if writer.kind == kind:
            try:
                row = write_row(content, name)
            except RowError:
                continue
            read[name] = FORMATS[name].convert(row)
    return read


def parts(content):
    if isinstance(content, Chat):
        return content.messages, content.tools
    return content.prompt, content.chosen, content.rejected, content.tools


@pytest.mark.parametrize(("kind", "records"), [("chat", chats()), ("preference", pairs())])
def test_a_record_survives_every_pair_of_formats_that_can_hold_it(kind, records):
    used = set()

    @BOUNDED
    @given(records)
    def check(content):
        once = hold(content, kind)
        used.update(once)
        for name, first in once.items():
            assert parts(first) == parts(content), name
            assert first.keys.items() >= content.keys.items(), name
            twice = hold(first, kind)
            assert twice.keys() == once.keys(), name
            for other, second in twice.items():
                assert parts(second) == parts(content), (name, other)
                if kind == "chat" and content.reference is not None:
                    assert second.reference == content.reference

    check()
    expected = {name for name, writer in WRITERS.items() if writer.kind == kind}
    # These need an answer of a special shape, or none; see the tests of each.
    assert used >= expected - {"gsm8k", "math", "prompt", "xlam"}
