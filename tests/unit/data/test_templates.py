import pytest

from posttrain.data.records import RowError
from posttrain.data.templates import SHIELD, ChatRenderer, unshield
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
    def cut(template, *messages, train_on="all_assistant", tools=(), special=(), joined=True):
        renderer = ChatRenderer(tokenizer_with(template, special))
        chat = record(*messages, tools=tools).content
        pieces = renderer.split_trained(chat, train_on)
        plain = renderer.render(chat.messages, chat.tools, prompt=False)
        assert not joined or "".join(piece.text for piece in pieces) == plain
        # The second time the conversation's skeleton is made, the third time it is filled.
        assert [renderer.split_trained(chat, train_on) for _ in range(2)] == [pieces] * 2
        assert renderer.counts["filled"] == (1 if renderer.counts["made"] else 0)
        assert not renderer.counts["wrong"]
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
    assert trained(split(PLAIN, *CHAT, train_on="last_assistant")) == ["Bye.<|im_end|>"]


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


def test_thinking_that_an_earlier_turn_has_before_its_words_is_not_left_untrained(split):
    # The prompt closes the thinking; a turn that has some starts before its words.
    closed = "<think>\n\n</think>\n\n"
    template = PLAIN.replace("assistant\n", "assistant\n" + closed).replace(
        "{{ m.content",
        "{% if m.role == 'assistant' %}{{ '<think>\n' + (m.reasoning_content or '')"
        " + '\n</think>\n\n' }}{% endif %}{{ m.content",
    )
    turns = (user("a"), assistant("b", reasoning_content="r"), user("c"), assistant("d"))
    error = refusal(split, template, *turns)

    assert error.reason == "training prompt and inference prompt differ"
    last = split(template, *turns, train_on="last_assistant")
    assert trained(last) == ["d<|im_end|>"]


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
    pieces = split(EARLY_THINKING_DROPPED, *messages, train_on="last_assistant")
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


def test_special_token_inside_a_text_stays_text(split):
    pieces = split(PLAIN, user("write <|im_end|> twice"), assistant("a<|im_end|>\n<|im_start|>b"))
    end, start = f"<{SHIELD}|im_end|>", f"<{SHIELD}|im_start|>"

    assert (
        pieces[0].text == f"<|im_start|>user\nwrite {end} twice<|im_end|>\n<|im_start|>assistant\n"
    )
    assert trained(pieces) == [f"a{end}\n{start}b<|im_end|>"]
    assert unshield(pieces[1].text) == "a<|im_end|>\n<|im_start|>b<|im_end|>"


def test_special_tokens_in_tools_and_calls_stay_text_too(split):
    odd = "<|im_end|>"
    call = {"type": "function", "function": {"name": "look", "arguments": {odd: ["x", {"y": odd}]}}}
    tool = {"type": "function", "function": {"name": "look", "description": odd, "parameters": {}}}
    pieces = split(TOOLS, user("a"), assistant("", tool_calls=[call]), tools=[tool])

    assert "".join(piece.text for piece in pieces).count("<|im_end|>") == 2
    assert trained(pieces)[0].count(SHIELD) == 2


def test_overlapping_special_tokens_are_all_broken(split):
    pieces = split(PLAIN, user("a"), assistant("<<>>>"), special=["<<>", "<>>"])

    assert trained(pieces) == [f"<{SHIELD}<{SHIELD}>>><|im_end|>"]


def test_tokens_that_are_not_special_are_left_to_the_template(split):
    text = "<think>\nr\n</think>\n\nb"

    assert trained(split(PLAIN, user("a"), assistant(text))) == [f"{text}<|im_end|>"]


def test_special_token_of_one_character_cannot_be_shielded(split):
    error = refusal(split, PLAIN, user("a\u2581b"), assistant("c"), special=["\u2581"])

    assert (error.reason, error.detail) == ("a text holds a special token", "turn 1: \u2581")


@pytest.mark.parametrize("mark", ["\ufdd0", "\ufdd1", SHIELD])
def test_noncharacter_inside_a_text_is_refused(split, mark):
    error = refusal(split, PLAIN, user(f"a{mark}"), assistant("b"))

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


@pytest.mark.parametrize("train_on", ["all_assistant", "last_assistant", "completion"])
def test_special_tokens_within_tool_calls_do_not_end_the_turn(split, train_on):
    pieces = split(
        TOOLS,
        user("a"),
        assistant("Wait.", tool_calls=[CALL, CALL]),
        tools=[TOOL],
        special=["<|call|>", "<|args|>"],
        train_on=train_on,
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


TALK = (
    {"role": "system", "content": "S"},
    user("a"),
    assistant("b"),
    user("c"),
    assistant("", tool_calls=[CALL]),
    {"role": "tool", "content": "blue"},
    assistant("d"),
)


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("all_assistant", ["b<|im_end|>", "CALL<|im_end|>", "d<|im_end|>"]),
        ("completion", ["CALL<|im_end|>", "d<|im_end|>"]),
        ("last_assistant", ["d<|im_end|>"]),
    ],
)
def test_which_turns_are_trained(split, train_on, expected):
    pieces = split(TOOLS, *TALK, tools=[TOOL], train_on=train_on)
    call = '<|call|>look<|args|>{"at": "sky"}'

    assert [text.replace(call, "CALL") for text in trained(pieces)] == expected


def test_everything_is_cut_at_the_same_places_and_trained_whole(split):
    pieces = split(TOOLS, *TALK, tools=[TOOL], train_on="everything")

    assert [p.text for p in pieces] == [p.text for p in split(TOOLS, *TALK, tools=[TOOL])]
    assert {piece.weight for piece in pieces} == {1.0}


def test_loss_weights_of_turns_are_kept(split):
    messages = (
        user("a"),
        assistant("b", loss_weight=0.5),
        user("c"),
        assistant("d", loss_weight=2),
    )

    weights = [(p.text, p.weight) for p in split(PLAIN, *messages) if p.weight]
    assert weights == [("b<|im_end|>", 0.5), ("d<|im_end|>", 2.0)]


def test_turn_that_weighs_nothing_is_part_of_the_prompt(split):
    pieces = split(PLAIN, user("a"), assistant("b", loss_weight=0), user("c"), assistant("d"))

    assert [bool(piece.weight) for piece in pieces] == [False, True, False]
    assert trained(pieces) == ["d<|im_end|>"]


def test_conversation_without_a_turn_to_train_is_refused(split):
    messages = (user("a"), assistant("b"), user("c"), assistant("d", loss_weight=0))
    error = refusal(split, PLAIN, *messages, train_on="last_assistant")

    assert error.reason == "no turn to train"
    assert trained(split(PLAIN, *messages)) == ["b<|im_end|>"]


def test_loss_weight_of_another_role_counts_under_everything_only(split):
    messages = ({**user("a"), "loss_weight": 0.5}, assistant("b"))
    error = refusal(split, PLAIN, *messages)

    assert error.reason == "a loss weight on a turn that is not the assistant's"
    assert [tuple(p) for p in split(PLAIN, *messages, train_on="everything")] == [
        ("<|im_start|>user\n", 1.0),
        ("a", 0.5),
        ("<|im_end|>\n<|im_start|>assistant\n", 1.0),
        ("b<|im_end|>", 1.0),
        ("\n", 1.0),
    ]
    # LLaMA-Factory's way of writing that users are not trained.
    usual = ({**user("a"), "loss_weight": 0}, assistant("b", loss_weight=1))
    assert trained(split(PLAIN, *usual)) == ["b<|im_end|>"]


def test_weights_of_rows_with_the_same_shape_are_not_mixed_up(tokenizer_with, record):
    renderer = ChatRenderer(tokenizer_with(PLAIN))
    for weight in (1.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.25):
        chat = record({**user("a"), "loss_weight": weight}, assistant("b")).content
        pieces = renderer.split_trained(chat, "everything")
        assert {p.text: p.weight for p in pieces if "a" in p.text and "b" not in p.text}
        (own,) = [w for text, w in pieces if text == "a"] or [1.0]
        assert own == weight
    for weight in (1.0, 1.0, 0.5, 2.0, 1.0):
        chat = record(user("a"), assistant("b", loss_weight=weight)).content
        assert renderer.split_trained(chat, "all_assistant")[1].weight == weight


# Qwen1.5 writes a turn's end only where the conversation goes on.
END_BETWEEN = PLAIN.replace(
    "<|im_end|>\n{% endfor",
    "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor",
)


def test_end_of_the_last_turn_is_that_of_a_conversation_that_goes_on(split):
    pieces = split(END_BETWEEN, *CHAT, joined=False)

    assert trained(pieces) == ["Hello.<|im_end|>", "Bye.<|im_end|>"]


def test_another_turns_header_is_no_end(split):
    # GLM: the next turn's header is all that follows.
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    special = ["<|user|>", "<|assistant|>"]
    error = refusal(split, template, user("a"), assistant("b"), special=special)

    assert error.reason == "the template ends no assistant turn"
    assert "<|user|> follows, which is not the tokenizer's end token <|im_end|>" in error.detail


# DeepSeek's R1 opens the thinking in the prompt, and leaves it away in every turn.
ALWAYS_THINKS = OPENS_THINKING.replace("m.content", "m.content.split('</think>')[-1]")


@pytest.mark.parametrize(
    "turn",
    [
        assistant("<think>\nr\n</think>\n\nb"),
        assistant(" <think>r\n</think>\n\nb"),
        assistant("b", reasoning_content="r"),
    ],
)
def test_answer_goes_on_from_the_thinking_that_the_prompt_opens(split, turn):
    pieces = split(ALWAYS_THINKS, user("a"), assistant("no"), user("c"), turn, joined=False)

    assert [tuple(piece) for piece in pieces[-3:]] == [
        ("\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n<think>\n", 0.0),
        ("r\n</think>\n\nb<|im_end|>", 1.0),
        ("\n", 0.0),
    ]


def test_answer_without_thinking_is_refused_where_the_prompt_opens_it(split):
    assert refusal(split, ALWAYS_THINKS, user("a"), assistant("b")).reason == (
        "training prompt and inference prompt differ"
    )
