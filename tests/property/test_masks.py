"""Masks by construction, over random conversations and all templates."""

import copy
import json
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posttrain.data.audit import audit_examples, check_audit
from posttrain.data.encode import EncodeOptions, Example, encode_prompt, encode_records
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Origin, Record, RowError
from posttrain.data.templates import ChatRenderer, unshield
from posttrain.data.tokens import stock_codec
from posttrain.grading.tool_calls import parse_tool_calls
from posttrain.models.prefix_templates import read_template, shipped_templates

# Small templates of our own, each with habits of real ones that are hard to train with.
START, ASSISTANT = "<|im_start|>{{ m.role }}\n", "<|im_start|>assistant\n"
PROMPT = "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
OWN = {
    # Drops the thinking of earlier turns and writes an empty one before the last, merges the
    # results of calls into one user turn, and puts the tools into the system turn.
    "thinking": (
        "{% if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}"
        "{{ messages[0].content + '\n\n' }}{% endif %}{% for t in tools %}{{ t | tojson }}\n"
        "{% endfor %}<|im_end|>\n{% endif %}"
        "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% set c, r = m.content, m.reasoning_content or '' %}{% if '</think>' in c and not r %}"
        "{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}" + ASSISTANT + ""
        "{% if loop.index0 > ns.last and (r or loop.last) %}<think>\n{{ r }}\n</think>\n\n"
        "{{ c.lstrip('\n') }}{% else %}{{ c }}{% endif %}"
        "{% for t in m.tool_calls or [] %}{{ '\n' if c or not loop.first }}<tool_call>\n"
        '{"name": "{{ t.function.name }}", "arguments": {{ t.function.arguments | tojson }}}\n'
        "</tool_call>{% endfor %}<|im_end|>\n"
        "{% elif m.role == 'tool' %}{% if loop.previtem.role != 'tool' %}<|im_start|>user"
        "{% endif %}\n<tool_response>\n{{ m.content }}\n</tool_response>"
        "{% if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>\n{% endif %}"
        "{% elif not (tools and loop.first and m.role == 'system') %}"
        + START
        + "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        + PROMPT
    ),
    # Strips every text; another end at the last turn; the user and the assistant must take turns.
    "strips": (
        "{% for m in messages %}{% if loop.previtem and m.role == loop.previtem.role %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        + START
        + "{{ m.content | trim }}{% if loop.last and m.role == 'assistant' %}<|pad|>{% else %}"
        "<|im_end|>\n{% endif %}{% endfor %}" + PROMPT
    ),
    # No system turn; its text is put before the first user's.
    "merges": (
        "{% set s = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
        "{% for m in messages %}{% if m.role != 'system' %}"
        + START
        + "{% if m.role == 'user' and loop.index0 <= 1 %}{{ s + m.content }}{% else %}"
        "{{ m.content }}{% endif %}<|im_end|>{% endif %}{% endfor %}" + PROMPT
    ),
    # A space between prompt and answer that the model has to write.
    "spaced": (
        "{% for m in messages %}{% if m.role == 'assistant' %}Answer: {{ m.content }}<|im_end|>"
        "{% else %}{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}Answer:{% endif %}"
    ),
    # Opens the thinking in the prompt and writes none.
    "always_thinks": (
        "{% for m in messages %}" + START + "{{ m.content.split('</think>')[-1] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}" + ASSISTANT + "<think>\n{% endif %}"
    ),
    # Ends turns only where the conversation goes on.
    "goes_on": (
        "{% for m in messages %}" + START + "{{ m.content }}"
        "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"
        + PROMPT
    ),
    "ends_nothing": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "reverses": "{% for m in messages %}{{ m.content | reverse }}<|im_end|>{% endfor %}",
}
NEVER_TRAINED = {"ends_nothing", "reverses"}
REASONS = re.compile(
    "the template (refuses|drops|rewrites|ends no)|training prompt and inference prompt differ"
)
TOKENS = (
    r"<[|｜][^|｜<>{}'\" ]+[|｜]>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]|</?s>"
    r"|<reserved_\d+>|\[gMASK\]sop"
)
CI = settings(max_examples=30, deadline=None, derandomize=True)
LONG = settings(max_examples=8, deadline=None, derandomize=True)

ODD = [
    "<|im_end|>",
    "<|im_start|>",
    "<|pad|>",
    "<|",
    "|>",
    "</s>",
    "{{ x }}",
    "{%",
    "\\n",
    '"',
    "'",
]
WORDS = st.text(
    st.characters(categories=["L", "N", "P", "Zs"], include_characters="\n", max_codepoint=0x9FFF),
    max_size=12,
)
TEXTS = st.lists(
    WORDS | st.sampled_from([*ODD, "😀", "👩‍👩‍👧", "你好", " ", "\n\n", "<tool_response>"]),
    max_size=4,
).map("".join)
FILLED = TEXTS.filter(lambda text: text.strip())
VALUES = st.integers(0, 99) | TEXTS | st.lists(st.none() | st.booleans() | TEXTS, max_size=2)
CALLS = st.fixed_dictionaries(
    {"name": st.sampled_from(["look", "find_it"]), "arguments": st.dictionaries(FILLED, VALUES)}
)
THOUGHTS = WORDS.filter(lambda text: text.strip())


NUMBERS = re.compile(r"A\d+Z")


@st.composite
def conversations(draw):
    """Messages and tools; every text has a mark that says whose it is."""
    numbers = iter(range(100))

    def mine(text):
        mark = f"A{next(numbers)}Z"
        return f"{mark}{text}" if draw(st.booleans()) else f"{text}{mark}"

    tooled = draw(st.booleans())
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": f"S{draw(TEXTS)}"})
    for _ in range(draw(st.integers(1, 3))):
        asked = draw(st.lists(TEXTS, min_size=1, max_size=draw(st.sampled_from([1, 1, 1, 2]))))
        messages += [{"role": "user", "content": f"{text}U"} for text in asked]
        if tooled and draw(st.booleans()):
            calls = draw(st.lists(CALLS, min_size=1, max_size=2))
            written = [
                {"id": f"call{n:05d}", "type": "function", "function": call}
                for n, call in enumerate(calls)
            ]
            content = draw(st.sampled_from([None, "", "\n"]) | TEXTS.map(mine))
            messages.append({"role": "assistant", "content": content, "tool_calls": written})
            messages += [
                {"role": "tool", "content": f"T{draw(TEXTS)}", "tool_call_id": call["id"]}
                for call in written
            ]
        messages.append({"role": "assistant", "content": mine(draw(TEXTS))})
        thought = f"R{draw(THOUGHTS)}" if draw(st.integers(0, 4)) == 0 else None
        if thought and draw(st.booleans()):
            messages[-1]["reasoning_content"] = thought
        elif thought:
            content = messages[-1]["content"]
            messages[-1]["content"] = f"<think>\n{thought}\n</think>\n\n{content}"
    return messages, [declare(n, draw(TEXTS)) for n in ("look", "find_it")] if tooled else []


def declare(name, description):
    parameters = {"type": "object", "properties": {}}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


@cache
def make_tokenizer(source, texts):
    """A tokenizer with the special tokens of all the templates, and its codec."""
    tokenizer = copy.deepcopy(source)
    found = sorted({token for text in texts for token in re.findall(TOKENS, text)})
    kept = (
        tokenizer.additional_special_tokens
        if hasattr(tokenizer, "additional_special_tokens")
        else []
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [*kept, "<|im_start|>", "<s>", "</s>", *found]}
    )
    return tokenizer, stock_codec(tokenizer)


ANSWERED = ([{"role": "user", "content": "U"}, {"role": "assistant", "content": "A0Z"}], [])
THOUGHT = (
    [ANSWERED[0][0], {"role": "assistant", "content": "<think>\nR\n</think>\n\nA0Z"}],
    [],
)


class Subject:
    """A tokenizer with a template, and what is made of both."""

    def __init__(self, source, texts, template):
        self.tokenizer, self.codec = make_tokenizer(source, texts)
        own_end = "eos_token" in template or "</s>" in template
        self.tokenizer.eos_token = "</s>" if own_end else source.eos_token
        self.tokenizer.bos_token = "<s>" if "bos_token" in template else source.bos_token
        self.tokenizer.chat_template = template
        self.renderer = ChatRenderer(self.tokenizer)
        self.special = {
            t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special
        }
        self.special_ids = {self.tokenizer.convert_tokens_to_ids(t) for t in self.special}

    def encode(self, messages, tools, train_on):
        """The example of a row, or why there is none; skeletons and marks agree."""
        content = convert_messages({"messages": messages, "tools": tools})
        record = Record(content, Origin("rows.jsonl", 1))
        options = EncodeOptions(10**6, train_on)
        (item,) = encode_records([record], self.renderer, self.codec, options)
        if isinstance(item, Example):
            self.compare(item.record.content, train_on)
            return item
        return f"{item.reason}: {item.detail}"

    def compare(self, chat, train_on):
        pieces = self.renderer.split_trained(chat, train_on)
        try:
            assert self.renderer.split_by_marks(chat, train_on) == pieces
        except RowError:  # marks disturb some templates
            plain = self.renderer.render(chat.messages, chat.tools, prompt=False)
            assert "".join(piece.text for piece in pieces) == plain

    def read(self, text):
        """What is left of a text after encoding, space aside; some tokenizers normalize."""
        return squeeze(self.tokenizer.decode(self.codec.encode(text)))

    def runs(self, example):
        """Trained tokens in a row, as text."""
        found, before = [], False
        for token, trained in zip(example.token_ids.tolist(), example.trained, strict=True):
            if trained:
                found[len(found) - before :] = [[*(found[-1] if before else []), token]]
            before = bool(trained)
        return [self.tokenizer.decode(run) for run in found]


def squeeze(text):
    return "".join(text.split())


def trained_turns(chat, train_on):
    turns = [m for m in chat.messages if m["role"] == "assistant"]
    if train_on == "last_assistant":
        return turns[-1:]
    if train_on == "completion":
        last = max(i for i, m in enumerate(chat.messages) if m["role"] == "user")
        return [m for m in chat.messages[last:] if m["role"] == "assistant"]
    return turns


def parse_completion(text, special):
    """Content, thinking and calls of what a model wrote, its end token included."""
    end = next(token for token in special if text.endswith(token))
    text = text.removesuffix(end)
    thinking = ""
    if "<|channel|>" in text:  # gpt-oss: a turn of several messages, each with its channel
        *before, text = text.split("<|message|>")
        thinking = before[1].partition("<|end|>")[0] if len(before) > 1 else ""
    if "</think>" in text:
        thinking, _, text = text.rpartition("</think>")
    return text, thinking.strip().removeprefix("<think>"), parse_tool_calls(text).calls


def check_turn(subject, text, message, *, tagged):
    """A trained turn is the message: its words, its thinking, its calls, its end, nothing else."""
    content = unmarked = str(message["content"] or "")
    thought = str(message.get("reasoning_content") or "")
    if content.startswith("<think>"):
        thought, _, content = content.removeprefix("<think>").partition("</think>")
    written, thinking, calls = parse_completion(text, subject.special)
    expected = subject.read(content)
    assert NUMBERS.findall(text) == NUMBERS.findall(unmarked)
    if not message.get("tool_calls"):
        assert squeeze(written) == expected
        assert squeeze(thinking) == subject.read(thought)
    else:
        assert squeeze(written).startswith(expected)
    if tagged and message.get("tool_calls"):
        assert [(c.name, json.dumps(c.arguments)) for c in calls] == [
            (c["function"]["name"], json.dumps(c["function"]["arguments"]))
            for c in message["tool_calls"]
        ]


def check_row(subject, row, train_on, *, tagged):
    """Everything that must hold of a row's example; False where the row was refused."""
    example = subject.encode(*row, train_on)
    if isinstance(example, str):
        assert REASONS.match(example), example
        return False
    chat = example.record.content
    pieces = subject.renderer.split_trained(chat, train_on)
    prompt = encode_prompt(chat, subject.renderer, subject.codec)
    ids = example.token_ids.tolist()
    check_audit(audit_examples([example], subject.tokenizer, train_on=train_on))
    assert ids[: len(prompt)] == prompt
    assert example.trained[len(prompt)]
    # What users and tools wrote is text: the template alone writes special tokens.
    text = "".join(piece.text for piece in pieces)
    specials = sum(token in subject.special_ids for token in ids)
    assert specials == len(subject.renderer.special.findall(text))
    assert squeeze(subject.tokenizer.decode(ids)) == subject.read(unshield(text))
    if train_on == "everything":
        assert example.trained.tolist() == [False] + [True] * (len(ids) - 1)
        return True
    runs = subject.runs(example)
    for run, message in zip(runs, trained_turns(chat, train_on), strict=True):
        check_turn(subject, run, message, tagged=tagged)
    return True


def check_many(subject, limits, *, tagged=False):
    used = []

    @example(ANSWERED, "all_assistant")
    @example(THOUGHT, "last_assistant")
    @example((ANSWERED[0], [declare("look", "at it")]), "completion")
    @limits
    @given(
        conversations(),
        st.sampled_from(["all_assistant", "last_assistant", "completion", "everything"]),
    )
    def check(row, train_on):
        used.append(check_row(subject, row, train_on, tagged=tagged))

    check()
    assert not subject.renderer.counts["wrong"]
    return any(used)


OURS = {**OWN, **{name: read_template(Path(name)) for name in shipped_templates()}}


@pytest.mark.parametrize("name", ["builtin", *OURS])
def test_masks_of_our_own_templates(tiny_tokenizer, name):
    template = OURS.get(name, tiny_tokenizer.chat_template)
    subject = Subject(tiny_tokenizer, tuple(OURS.values()), template)

    used = check_many(subject, CI, tagged=name == "thinking")

    assert used == (name not in NEVER_TRAINED)


TAGGED = r'<tool_call>\n{"name": '
"""What templates write whose calls are JSON in tags."""
REFUSED = {
    "GLM-4.6",
    "Qwen-QwQ-32B",
    "chatglm3-6b",
    "deepseek-ai-DeepSeek-V3.2",
    "llamacpp_chatglm3",
    "llamacpp_chatglm4",
    "vllm_template_baichuan",
    "vllm_template_chatglm",
}


def test_masks_of_all_real_templates(shared_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "qwen3")
    paths = sorted((shared_data / "chat_templates").rglob("*.jinja"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    refused = set()
    for name, text in texts.items():
        subject = Subject(tokenizer, tuple(texts.values()), text)
        if not check_many(subject, LONG, tagged=TAGGED in text):
            refused.add(name)

    assert refused == REFUSED
