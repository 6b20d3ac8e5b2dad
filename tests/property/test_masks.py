"""Masks by construction, over random conversations and real templates."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.audit import audit_examples, check_audit
from posttrain.data.encode import EncodeOptions, Example, encode_prompt, encode_records
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Origin, Record
from posttrain.data.templates import ChatRenderer

TEMPLATES = [
    "Qwen-Qwen3-0.6B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen3.5-4B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "google-gemma-2-2b-it",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "deepseek-ai-DeepSeek-V3.1",
    "HuggingFaceTB-SmolLM3-3B",
    "openai-gpt-oss-120b",
    "olmo",
    "tulu",
]
CALLING = ["Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct", "deepseek-ai-DeepSeek-V3.1"]
TOKENS = r"<[|｜][^|｜<>{}'\" ]+[|｜]>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]"
BOUNDED = settings(max_examples=12, deadline=None)

WORDS = st.text(
    st.characters(categories=["L", "N", "P", "Zs"], include_characters="\n", max_codepoint=0x9FFF),
    min_size=1,
    max_size=30,
).filter(lambda text: text.strip() and not re.search(TOKENS, text))
EXCHANGES = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)
NAMES = st.from_regex(r"[a-z]{3,8}_[a-z]{3,8}", fullmatch=True)
ARGUMENTS = st.dictionaries(NAMES, st.integers(0, 99) | st.sampled_from(["sky", "海"]), max_size=2)


@cache
def tokenizer_for(folder: Path, template: str):
    """The real Qwen3 tokenizer with a template and the special tokens that it writes."""
    from transformers import AutoTokenizer

    text = (folder / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizers" / "qwen3")
    tokens = sorted(set(re.findall(TOKENS, text)))
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    if "eos_token" in text:
        tokenizer.add_special_tokens({"eos_token": "</s>"})
    if "bos_token" in text:
        tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = text
    return tokenizer


def conversation(exchanges):
    return [
        {"role": role, "content": text}
        for pair in exchanges
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def encode(tokenizer, messages, *, last_only=False, tools=()):
    row = {"messages": messages, "tools": list(tools)}
    record = Record(convert_messages(row), Origin("rows.jsonl", 1))
    options = EncodeOptions(max_tokens=10**6, last_only=last_only)
    (item,) = encode_records([record], ChatRenderer(tokenizer), options)
    assert isinstance(item, Example), item
    return item


def runs(example, tokenizer):
    """Decoded runs of trained tokens."""
    found, current = [], []
    for token, trained in zip(example.token_ids.tolist(), example.trained, strict=True):
        if trained:
            current.append(token)
        elif current:
            found.append(tokenizer.decode(current))
            current = []
    return [*found, *([tokenizer.decode(current)] if current else [])]


def squeeze(text):
    return "".join(text.split())


@pytest.mark.parametrize("template", TEMPLATES)
def test_exactly_the_assistants_words_and_end_tokens_are_trained(shared_data, template):
    tokenizer = tokenizer_for(shared_data, template)
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}

    @BOUNDED
    @given(EXCHANGES, st.booleans())
    def check(exchanges, last_only):
        messages = conversation(exchanges)
        example = encode(tokenizer, messages, last_only=last_only)
        answers = [answer for _, answer in exchanges][-1 if last_only else 0 :]
        trained = runs(example, tokenizer)

        assert len(trained) == len(answers)
        for text, answer in zip(trained, answers, strict=True):
            end = next(token for token in special if text.endswith(token))
            words = squeeze(text.removesuffix(end))
            # Qwen3 writes an empty thinking before the last answer, gpt-oss the channel's name.
            header = re.escape(squeeze("<|channel|>final<|message|>")) + "|<think></think>|</think>"
            assert re.fullmatch(
                f"({header})?" + re.escape(squeeze(tokenizer_text(tokenizer, answer))), words
            )
        text = ChatRenderer(tokenizer).render(messages, prompt=False)
        assert tokenizer.decode(example.token_ids.tolist()) == tokenizer_text(tokenizer, text)

    check()


def tokenizer_text(tokenizer, text):
    """What is left of a text after encoding; Qwen's normalizes Unicode."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompt_is_that_of_inference_and_the_audit_agrees(shared_data, template):
    tokenizer = tokenizer_for(shared_data, template)

    @BOUNDED
    @given(EXCHANGES)
    def check(exchanges):
        example = encode(tokenizer, conversation(exchanges))
        prompt = encode_prompt(example.record, ChatRenderer(tokenizer))

        assert example.token_ids[: len(prompt)].tolist() == prompt
        assert example.trained[len(prompt)]
        check_audit(audit_examples([example], tokenizer))

    check()


@pytest.mark.parametrize("template", CALLING)
def test_tool_call_is_trained_whole_and_its_result_not_at_all(shared_data, template):
    tokenizer = tokenizer_for(shared_data, template)

    @BOUNDED
    @given(NAMES, ARGUMENTS, WORDS, WORDS)
    def check(name, arguments, result, answer):
        result, answer = f"RESULT{result}", f"ANSWER{answer}"
        call = {"type": "function", "function": {"name": name, "arguments": arguments}}
        tool = {"type": "function", "function": {"name": name, "parameters": {}}}
        messages = [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": result},
            {"role": "assistant", "content": answer},
        ]

        example = encode(tokenizer, messages, tools=[tool])
        first, second = runs(example, tokenizer)

        assert name in first
        assert squeeze(json.dumps(arguments, ensure_ascii=False)) in squeeze(first)
        assert "RESULT" not in first + second
        assert "ANSWER" in second
        assert "ANSWER" not in first

    check()
