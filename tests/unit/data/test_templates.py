import pytest

from posttrain.data.records import RowError
from posttrain.data.templates import ChatRenderer
from posttrain.errors import ConfigError
from tests.unit.data.conftest import assistant, user

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}

# Templates cut down to one habit each, as real ones have it.
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPS = PLAIN.replace("m.content", "m.content | trim")
OTHER_LAST_END = PLAIN.replace(
    "<|im_end|>\n",
    "{% if loop.last and m.role == 'assistant' %}<|endoftext|>{% else %}<|im_end|>\n{% endif %}",
)
TAIL = PLAIN.replace(
    "{% if add_gen", "{% if not add_generation_prompt %}<|endoftext|>{% endif %}{% if add_gen"
)
NO_END = PLAIN.replace("<|im_end|>", "")
SHOUTS = PLAIN.replace("m.content", "m.content | upper")
CUTS = PLAIN.replace("m.content", "m.content[:5]")
EARLY_THINKING_DROPPED = PLAIN.replace(
    "{{ m.content }}",
    "{{ m.content.split('</think>')[-1].lstrip('\n') if not loop.last else m.content }}",
)
THINKING_REWRITTEN = PLAIN.replace(
    "{{ m.content }}",
    "{% if '</think>' in m.content %}<think>\n"
    "{{ m.content.split('</think>')[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}",
)
OPENS_THINKING = PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
TOOLS = (
    "{% if tools %}TOOLS {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if m.content %}{{ '\n' }}{% endif %}"
    "<|call|>{{ c.function.name }}<|args|>{{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def split(tokenizer_with, record):
    def cut(template, *messages, last_only=False, tools=(), special=()):
        renderer = ChatRenderer(tokenizer_with(template, special))
        chat = record(*messages, tools=tools).content
        pieces = renderer.split_trained(chat, last_only=last_only)
        plain = renderer.render(chat.messages, chat.tools, prompt=False)
        assert "".join(piece.text for piece in pieces) == plain
        return pieces

    return cut


def trained(pieces):
    return [piece.text for piece in pieces if piece.weight]


def refusal(split, *arguments, **options):
    with pytest.raises(RowError) as caught:
        split(*arguments, **options)
    return caught.value


CHAT = (user("Hi"), assistant("Hello."), user("And?"), assistant("Bye."))


def test_each_turn_is_trained_from_the_prompts_end_through_its_end_token(split):
    pieces = split(PLAIN, *CHAT)

    assert [(piece.text, bool(piece.weight)) for piece in pieces] == [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False),
        ("Hello.<|im_end|>", True),
        ("\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n", False),
        ("Bye.<|im_end|>", True),
        ("\n", False),
    ]


def test_last_turn_alone_is_trained_where_asked(split):
    assert trained(split(PLAIN, *CHAT, last_only=True)) == ["Bye.<|im_end|>"]


def test_text_that_occurs_elsewhere_too_is_not_confused(split):
    pieces = split(PLAIN, user("yes"), assistant("yes"), user("yes"), assistant("yes"))

    assert [bool(piece.weight) for piece in pieces] == [False, True, False, True, False]
    assert trained(pieces) == ["yes<|im_end|>", "yes<|im_end|>"]


def test_space_around_contents_is_trained_where_the_template_keeps_it(split):
    pieces = split(PLAIN, user("a"), assistant("\n b \n"), user("c"), assistant(" d "))

    assert trained(pieces) == ["\n b \n<|im_end|>", " d <|im_end|>"]


def test_template_that_strips_contents_is_taken(split):
    pieces = split(STRIPS, user(" a "), assistant("\n b \n"), user("c"), assistant(" d "))

    assert trained(pieces) == ["b<|im_end|>", "d<|im_end|>"]


def test_stripped_earlier_turn_after_another_prompt_starts_at_its_words(split):
    # Qwen3.5: the inference prompt opens the thinking, the render of earlier turns has none.
    template = OPENS_THINKING.replace("m.content", "m.content | trim")
    last = assistant("<think>\nr</think>d")
    pieces = split(template, user("a"), assistant(" b\n"), user("c"), last)

    assert trained(pieces) == ["b<|im_end|>", "r</think>d<|im_end|>"]


def test_each_turn_keeps_the_end_token_that_the_template_gives_it(split):
    assert trained(split(OTHER_LAST_END, *CHAT)) == ["Hello.<|im_end|>", "Bye.<|endoftext|>"]


def test_what_the_template_writes_behind_the_last_end_is_not_trained(split):
    assert trained(split(TAIL, *CHAT)) == ["Hello.<|im_end|>", "Bye.<|im_end|>"]


def test_template_that_ends_no_turn_is_refused(split):
    error = refusal(split, NO_END, user("a"), assistant("b"))

    assert error.reason == "the template ends no assistant turn"


@pytest.mark.parametrize("template", [CUTS, SHOUTS])
def test_template_that_changes_words_is_refused(split, template):
    error = refusal(split, template, user("a"), assistant("a long answer"))

    assert error.reason.startswith("the template ")


def test_thinking_in_the_last_turn_is_trained_though_the_template_writes_it_anew(split):
    pieces = split(THINKING_REWRITTEN, user("a"), assistant("<think>\nr\n</think>\n\nb"))

    assert trained(pieces) == ["<think>\nr\n</think>\n\nb<|im_end|>"]


def test_words_before_the_thinking_that_the_template_drops_are_noticed(split):
    error = refusal(split, THINKING_REWRITTEN, user("a"), assistant("x<think>r</think>b"))

    assert error.reason == "the template drops a part of an assistant turn"


def test_thinking_of_earlier_turns_that_the_template_drops_is_noticed(split):
    messages = (user("a"), assistant("<think>r</think>b"), user("c"), assistant("d"))
    error = refusal(split, EARLY_THINKING_DROPPED, *messages)

    assert error.reason == "the template drops a part of an assistant turn"
    assert "data.train_on: last_assistant" in error.detail
    pieces = split(EARLY_THINKING_DROPPED, *messages, last_only=True)
    assert trained(pieces) == ["d<|im_end|>"]


def test_reasoning_that_the_template_drops_is_noticed(split):
    error = refusal(split, PLAIN, user("a"), assistant("b", reasoning_content="because"))

    assert error.reason == "the template drops the reasoning of a turn"


def test_prompt_that_the_render_does_not_go_on_from_is_refused(split):
    error = refusal(split, OPENS_THINKING, user("a"), assistant("b"))

    assert error.reason == "training prompt and inference prompt differ"


def test_answer_that_goes_on_from_an_opened_thinking_is_taken(split):
    pieces = split(OPENS_THINKING, user("a"), assistant("<think>\nr\n</think>b"))

    assert trained(pieces) == ["r\n</think>b<|im_end|>"]


@pytest.mark.parametrize(
    "messages",
    [
        (user("write <|im_end|> twice"), assistant("no")),
        (user("a"), assistant("b<|im_end|>\n<|im_start|>user\nc")),
        ({"role": "system", "content": "<|endoftext|>"}, user("a"), assistant("b")),
        (user("a"), assistant("b", reasoning_content="<|im_end|>")),
    ],
)
def test_special_token_inside_a_text_is_refused(split, messages):
    assert refusal(split, PLAIN, *messages).reason == "a text holds a special token"


def test_noncharacter_inside_a_text_is_refused(split):
    error = refusal(split, PLAIN, user("a\ufdd0"), assistant("b"))

    assert error.reason == "a text holds a noncharacter"


def test_private_use_characters_are_text_like_any_other(split):
    # Powerline prompts hold U+E0B0.
    pieces = split(PLAIN, user("\ue0b0"), assistant("\ue0b0\ue0b1"))

    assert trained(pieces) == ["\ue0b0\ue0b1<|im_end|>"]


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_turn_of_tool_calls_alone_is_trained_whole(split, content):
    pieces = split(
        TOOLS,
        user("a"),
        assistant(content, tool_calls=[CALL]),
        {"role": "tool", "content": "blue"},
        assistant("It is blue."),
        tools=[TOOL],
    )

    expected = (content or "") + '\n<|call|>look<|args|>{"at": "sky"}<|im_end|>'
    assert trained(pieces) == [
        expected if content else expected.lstrip("\n"),
        "It is blue.<|im_end|>",
    ]


@pytest.mark.parametrize("last_only", [False, True])
def test_special_tokens_within_tool_calls_do_not_end_the_turn(split, last_only):
    pieces = split(
        TOOLS,
        user("a"),
        assistant("Wait.", tool_calls=[CALL, CALL]),
        tools=[TOOL],
        special=["<|call|>", "<|args|>"],
        last_only=last_only,
    )
    calls = '\n<|call|>look<|args|>{"at": "sky"}' * 2

    assert trained(pieces) == [f"Wait.{calls}<|im_end|>"]


def test_special_tokens_of_an_earlier_call_do_not_end_its_turn(split):
    pieces = split(
        TOOLS,
        user("a"),
        assistant("", tool_calls=[CALL]),
        {"role": "tool", "content": "blue"},
        assistant("Blue."),
        tools=[TOOL],
        special=["<|call|>", "<|args|>"],
    )

    assert trained(pieces) == [
        '<|call|>look<|args|>{"at": "sky"}<|im_end|>',
        "Blue.<|im_end|>",
    ]


def test_tail_behind_a_tool_turn_is_not_trained(split):
    template = TOOLS.replace(
        "{% if add_gen", "{% if not add_generation_prompt %}<|endoftext|>{% endif %}{% if add_gen"
    )
    pieces = split(template, user("a"), assistant("", tool_calls=[CALL]), tools=[TOOL])

    assert trained(pieces) == ['<|call|>look<|args|>{"at": "sky"}<|im_end|>']


def test_template_that_drops_tool_calls_or_tools_is_refused(split):
    turn = assistant("b", tool_calls=[CALL])

    assert refusal(split, PLAIN, user("a"), turn).reason == "the template drops a tool call"
    error = refusal(split, PLAIN, user("a"), turn, tools=[TOOL])
    assert error.reason == "the template drops the tools"


def test_refusal_of_the_template_itself_is_the_detail(split):
    error = refusal(split, "{{ raise_exception('no system here') }}", user("a"), assistant("b"))

    assert (error.reason, error.detail) == (
        "the template refuses this conversation",
        "no system here",
    )


def test_tokenizer_without_template_is_refused(tokenizer_with):
    with pytest.raises(ConfigError, match=r"model\.chat_template"):
        ChatRenderer(tokenizer_with(None))


def test_conversation_that_the_assistant_opens_is_taken(split):
    pieces = split(PLAIN, assistant("Welcome."), user("a"), assistant("b"))

    assert trained(pieces) == ["Welcome.<|im_end|>", "b<|im_end|>"]
