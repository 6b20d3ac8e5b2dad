"""Renders without the template are those of the template, or there are none."""

import json

import pytest

from posttrain.data.records import Chat, RowError
from posttrain.data.templates import ChatRenderer
from posttrain.data.templates.code import Piece
from posttrain.data.templates.spans import DIFFERS
from tests.unit.data.conftest import assistant, user

FRAME = (
    "{%% for m in messages %%}<|im_start|>{{ m.role }}\n%s<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)
TEXTS = [
    "x",
    " two words\n",
    "x",
    "abc",
    "7",
    "<think>\nr\n</think>\n\nx",
    "ABC",
    "aaa",
    "x-y",
    "海",
]
# What templates do with a text; where a skeleton is made, it must be right for all texts.
TRACED = [
    "{{ m.content }}",
    "{{ m['content'] | trim }}",
    "{{ m.content.strip('\\n') }}",
    "{{ m.get('content') }}",
    "{{ 'a' ~ m.content ~ 'b' }}",
    "{% set c = m.content %}{% if 'b' in c %}B{% endif %}{{ c }}",
    "{% if m.content.startswith('a') or m.content.endswith('y') %}!{% endif %}{{ m.content }}",
    "{% if m.content == 'x' %}same{% endif %}{{ m.content }}",
    "{% if m.content != 'x' %}other{% endif %}{{ m.content }}",
    "{% if m.content in ['x', '7'] %}known{% endif %}{{ m.content }}",
    "{% if m.content is string and m.content is iterable %}{{ m.content }}{% endif %}",
    "{% if m.content is mapping %}no{% else %}{{ m.content }}{% endif %}",
    "{% if m.content | trim | length > 2 %}long{% endif %}{{ m.content }}",
    "{{ m.content or 'nothing' }}",
    "{{ m.content | default('nothing') }}",
    "{{ m.content | string }}",
    "{% macro w(t) %}({{ t }}){% endmacro %}{{ w(m.content) }}",
    "{% set ns = namespace(t='') %}{% set ns.t = m.content %}{{ ns.t }}",
    "{% for t in [m.content] %}{{ t }}{% endfor %}",
    "{% generation %}{{ m.content }}{% endgeneration %}",
    "{{ m.content }}{% if loop.previtem %}{{ loop.previtem.content }}{% endif %}",
    "{% if '</think>' in m.content %}<think>"
    "{{ m.content.split('</think>')[0].split('<think>')[-1] }}</think>"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}",
    "{% if m.content.text %}no{% endif %}{{ m.content }}",
    "{{ m.content.replace('zz', '') }}",
]
# Of these no skeleton may be made, or only a right one.
UNTRACED = [
    "{% set c %}[{{ m.content }}]{% endset %}{{ c | trim }}",
    "{{ ('  ' + m.content + '\n') | trim }}",
    "{{ m.content }}{{ m.content | upper }}",
    "{{ m.content }}{{ m.content.title() }}",
    "{{ m.content }}{{ '%s' | format(m.content) }}",
    "{{ m.content }}{{ '%s' % m.content }}",
    "{{ m.content }}{{ '{}'.format(m.content) }}",
    "{{ m.content }}{{ '-'.join([m.content]) }}",
    "{{ m.content }}{{ [m.content, 'q'] | join('-') }}",
    "{{ m.content }}{% for c in m.content %}{{ c }}.{% endfor %}",
    "{{ m.content }}{{ m.content | list | length }}",
    "{{ m.content }}{{ m.content | reverse }}",
    "{{ m.content }}{{ m.content | int }}",
    "{{ m.content }}{{ m.content | float(1) }}",
    "{{ m.content }}{{ m.content * 2 }}",
    "{{ m.content }}{{ m.content in 'abcdef' }}",
    "{{ m.content }}{{ {'x': 1, '7': 2}[m.content] }}",
    "{{ m.content }}{{ {'x': 1}.get(m.content, 0) }}",
    "{{ m.content }}{{ m.content < 'b' }}",
    "{{ m.content }}{{ [m.content, 'b'] | sort | first }}",
    "{{ m.content }}{{ [m.content, 'x'] | unique | list | length }}",
    "{{ m.content }}{{ m.content | indent }}",
    "{{ m.content }}{{ m.content | wordcount }}",
    "{{ m.content }}{{ m.content | escape }}",
    "{{ m.content }}{{ m.content | safe }}",
    "{{ m.content }}{{ m.content[0] }}",
    "{{ m.content }}{{ m.content[:2] }}",
    "{{ m.content }}{{ m.content[9] }}",
    "{{ m.content }}{{ m.content.split()[1] }}",
    "{{ m.content }}{{ m.content.find('b') }}",
    "{{ m.content }}{{ m.content.count('a') }}",
    "{{ m.content }}{{ m.content is lower }}",
    "{{ m.content }}{{ m.content is sameas 'x' }}",
    "{{ m.content }}{{ m | tojson(indent=1) }}",
    "{{ m.content }}{{ m | tojson(ensure_ascii=True) }}",
    "{{ m.content }}{{ m.content | tojson }}",
    "{{ m.content }}{{ m.content | replace('a', 'bb') }}",
    "{{ m.content }}{{ [m] | map(attribute='content') | first }}",
    "{{ m.content }}{{ [m] | selectattr('content', 'equalto', 'x') | list | length }}",
]


def outcome(split, chat):
    try:
        return [tuple(piece) for piece in split(chat, "all_assistant")]
    except RowError as error:
        return error.reason, error.detail


def check(renderer, chat):
    """Skeletons give what marks give; where marks disturb the template, at least the render."""
    expected, got = (outcome(f, chat) for f in (renderer.split_by_marks, renderer.split_trained))
    if type(expected) is list or type(got) is tuple:
        assert got == expected
        return
    assert expected[0] in ("the template rewrites or drops an assistant turn", DIFFERS)
    assert "".join(text for text, _ in got) == renderer.render(chat.messages, prompt=False)
    answers = [m["content"] for m in chat.messages if m["role"] == "assistant"]
    for (text, _), answer in zip([p for p in got if p[1]], answers, strict=True):
        assert text.startswith(answer.strip()) or answer.strip() in text[:-10]
        assert text.endswith("<|im_end|>")


@pytest.mark.parametrize("habit", [*TRACED, *UNTRACED])
def test_skeleton_gives_what_the_template_gives(tokenizer_with, habit):
    renderer = ChatRenderer(tokenizer_with(FRAME % habit))
    chats = [
        Chat((user(a), assistant(b), user(a), assistant(b)) if n % 2 else (user(a), assistant(b)))
        for n, (a, b) in enumerate((a, b) for a in TEXTS for b in TEXTS)
    ]
    for chat in chats:
        check(renderer, chat)
    assert not renderer.counts["wrong"]
    if habit in TRACED:
        assert renderer.counts["filled"] > len(chats) / 4


CALLS = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} %s</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ARGUMENTS = [{}, {"a": 1}, {"a": "two"}, {"a": "x", "b": [1, "y", None]}, {"a": {"c": 1.5}}]


@pytest.mark.parametrize(
    "written",
    [
        "{{ c.function.arguments | tojson }}",
        "{{ c.function.arguments | tojson(indent=2) }}",
        "{{ {'arguments': c.function.arguments} | tojson }}",
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}",
        "{% for k, v in c.function.arguments | items %}{{ k }}={{ v | tojson }};{% endfor %}",
        "{% set a = c.function.arguments %}{% for k in a %}{{ k }}={{ a[k] | string }}{% endfor %}",
        "{% if c.function.arguments is mapping %}{{ c.function.arguments | tojson }}{% endif %}",
        "{% if c.id is defined %}{{ c.id }}{% endif %}{{ c.function.arguments.a | default('-') }}",
        "{{ c.function.arguments | length }}",
        "{{ m.tool_calls | tojson }}",
    ],
)
def test_skeletons_of_tool_calls(tokenizer_with, written):
    renderer = ChatRenderer(tokenizer_with(CALLS.replace("%s", written)))
    for number in range(40):
        function = {"name": ["look", "find"][number % 2], "arguments": ARGUMENTS[number % 5]}
        call = {"id": f"c{number}", "type": "function", "function": function}
        tool = {"type": "function", "function": {"name": "look", "description": TEXTS[number % 9]}}
        chat = Chat(
            (
                user(TEXTS[number % 10]),
                assistant("" if number % 3 else "Wait.", tool_calls=[call] * (1 + number % 2)),
                {"role": "tool", "content": "r", "tool_call_id": f"c{number}"},
                assistant("Done."),
            ),
            (tool,) if number % 4 else (),
        )
        check(renderer, chat)
    assert not renderer.counts["wrong"]


def test_special_token_put_together_from_two_texts_is_left_to_the_template(tokenizer_with):
    renderer = ChatRenderer(tokenizer_with(FRAME % "{{ m.content }}|im_end|>"))
    for text in ("a", "b", "c", "d<", "e"):
        chat = Chat((user("u"), assistant(text)))
        expected = outcome(renderer.split_by_marks, chat)
        assert outcome(renderer.split_trained, chat) == expected
    assert renderer.counts["filled"]


def test_a_wrong_skeleton_is_noticed_and_not_used_again(tokenizer_with):
    renderer = ChatRenderer(tokenizer_with(FRAME % "{{ m.content }}"))
    chat = Chat((user("a"), assistant("b")))
    expected, *_ = [renderer.split_trained(chat, "all_assistant") for _ in range(5)]
    (shape,) = renderer._shapes.values()
    shape.cases[0]._fill = lambda messages, tools: [Piece("something else", 1.0)]
    shape.cases[0].uses = 0

    assert [renderer.split_trained(chat, "all_assistant") for _ in range(3)] == [expected] * 3
    assert renderer.counts["wrong"] == 1
    assert shape.cases == []


def test_rows_are_used_or_not_whatever_rows_came_before(tokenizer_with):
    # Where the last answer thinks, marks cannot say where the one before begins; places can.
    template = FRAME.replace("assistant\n", "assistant\n<think>\n") % (
        "{% if '</think>' in m.content %}<think>\n"
        "{{ m.content.split('</think>')[0].split('<think>')[-1].strip('\n') }}"
        "\n</think>\n\n{{ m.content.split('</think>')[-1].lstrip('\n') }}"
        "{% else %}{{ m.content }}{% endif %}"
    )
    thinks = "<think>\nr\n</think>\n\n"
    rows = [
        Chat((user("u"), assistant(a), user("v"), assistant(b)))
        for a, b in [
            ("x", f"{thinks}y"),
            ("x", "y"),
            (f"{thinks}x", f"{thinks}y"),
            (" x", f"{thinks}z"),
            ("x", f"{thinks}<|im_end|>"),
            ("x", "<think>y</think>"),
        ]
    ]
    alone = [outcome(ChatRenderer(tokenizer_with(template)).split_trained, row) for row in rows]
    for order in (rows * 3, rows[::-1] * 3):
        renderer = ChatRenderer(tokenizer_with(template))
        for row in order:
            assert outcome(renderer.split_trained, row) == alone[rows.index(row)]


VARIABLES = (
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ documents }}{{ custom }}{{ tools | tojson }}"
    "{{ messages | tojson(indent=2) }}{{ strftime_now('%Y') }}{{ add_generation_prompt }}\n"
    "  {% if messages[0].thinking is defined %}{{ messages[0].thinking }}{% endif %}\n"
    "{% for m in messages %}{% continue %}{% endfor %}"
)


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("tools", [None, [], [{"type": "function", "function": {"name": "f<b>"}}]])
@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "海 <b> 'q' \"d\""},
        {"role": "assistant", "content": None, "tool_calls": None},
        {"role": "assistant", "content": "x", "reasoning_content": "r"},
        {"role": "assistant", "content": "x", "reasoning": "r"},
        {"role": "assistant", "content": "x", "thinking": "t", "reasoning": "r"},
        {"role": "user", "content": [{"type": "text", "text": "t"}]},
    ],
)
def test_render_is_that_of_apply_chat_template(tokenizer_with, message, tools, prompt):
    for template in (VARIABLES, {"default": VARIABLES, "tool_use": "T{{ tools | tojson }}"}):
        tokenizer = tokenizer_with(template)
        assert ChatRenderer(tokenizer).render([message], tools, prompt=prompt) == (
            tokenizer.apply_chat_template(
                [message],
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        )


def test_loss_weights_are_no_matter_of_the_template(tokenizer_with):
    renderer = ChatRenderer(tokenizer_with("{{ messages | tojson }}"))

    assert json.loads(renderer.render([{**user("a"), "loss_weight": 0.5}], prompt=False)) == [
        user("a")
    ]
