import copy
import json

import pytest

from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Origin, Record


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


@pytest.fixture
def write(tmp_path):
    """Write rows as JSON lines, or text as it stands."""

    def write_file(name, content):
        path = tmp_path / name
        if not isinstance(content, (str, bytes)):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def record():
    """Make a record from messages."""

    def make(*messages, tools=(), line=1):
        row = {"messages": list(messages), "tools": list(tools)}
        return Record(convert_messages(row), Origin("rows.jsonl", line))

    return make


@pytest.fixture
def tokenizer_with(tiny_tokenizer):
    """Copy the tiny tokenizer, with another template and more special tokens."""

    def make(template, special=()):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        if special:
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *special]})
        return tokenizer

    return make
