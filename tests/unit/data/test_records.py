import pytest

from posttrain.data.records import Chat, Origin, Reject, RowError, check_chat
from tests.unit.data.conftest import assistant, user

SYSTEM = {"role": "system", "content": "s"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([user("a")], "no assistant turn"),
        ([assistant("a")], "no user turn"),
        ([SYSTEM, assistant("a")], "no user turn"),
        ([user("a"), SYSTEM, assistant("b")], "system turn is not the first"),
        ([{"role": "boss", "content": "a"}], "unknown role"),
        ([user(" \n"), assistant("b")], "empty turn"),
        ([user("a"), assistant(""), user("b"), assistant("c")], "empty turn"),
        ([user("a"), {"role": "assistant", "content": 3}], "content is not text"),
        ([user("a"), assistant("half \ud83d")], "a text is not valid Unicode"),
    ],
)
def test_conversation_that_cannot_be_trained_on_has_a_reason(messages, reason):
    with pytest.raises(RowError) as caught:
        check_chat(Chat(tuple(messages)))

    assert caught.value.reason == reason


def test_turns_of_tools_may_be_empty():
    check_chat(
        Chat(
            (
                user("a"),
                assistant("", tool_calls=[CALL]),
                {"role": "tool", "content": ""},
                assistant("b"),
            )
        )
    )


def test_prompt_ends_before_the_last_assistant_turn():
    chat = Chat((SYSTEM, user("a"), assistant("b"), user("c"), assistant("d")))

    assert chat.prompt == chat.messages[:4]
    assert Chat(chat.prompt).prompt == chat.prompt
    assert chat.prompt_text == "a\nc"


def test_canonical_form_forgets_the_order_of_keys_but_not_the_tools():
    one = Chat(({"role": "user", "content": "é"},))
    other = Chat(({"content": "é", "role": "user"},))

    assert one.canonical() == other.canonical()
    assert one.canonical() != Chat(one.messages, tools=({"name": "f"},)).canonical()


def test_reject_says_where_and_why():
    reject = Reject(Origin("a.jsonl", 7), "too long", "9 tokens", {"q": 1})

    assert reject.to_json() == {
        "file": "a.jsonl",
        "line": 7,
        "reason": "too long",
        "detail": "9 tokens",
        "row": {"q": 1},
    }
