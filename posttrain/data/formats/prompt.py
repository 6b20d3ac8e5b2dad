"""Prompts to be answered in training: ``prompt``, and what answers are graded against.

The reference is in ``reference``, ``answer`` or ``ground_truth``, or, as verl has it, in
``reward_model.ground_truth``.
"""

from __future__ import annotations

from posttrain.data.formats.chatml import START, parse_prompt
from posttrain.data.formats.fields import other_fields, read_reference, read_text
from posttrain.data.formats.messages import read_row_tools, read_turns
from posttrain.data.records import Chat, Message, Row, RowError

REFERENCES = ("reference", "answer", "ground_truth")
_USED = frozenset(("prompt", "system", "tools", "functions", *REFERENCES))


def convert_prompt(row: Row) -> Chat:
    """Convert a row; the prompt is text, rendered ChatML, or a list of messages.

    Raises:
        RowError: There is no prompt, or it is of another shape.
    """
    rewards = row.get("reward_model")
    stated = [row.get(name) for name in REFERENCES]
    stated.append(rewards.get("ground_truth") if isinstance(rewards, dict) else None)
    found = [text for value in stated if (text := read_reference({"reference": value}))]
    return Chat(
        read_prompt(row), read_row_tools(row), found[0] if found else None, other_fields(row, _USED)
    )


def read_prompt(row: Row) -> tuple[Message, ...]:
    """Read the turns of ``prompt``, behind the row's ``system`` prompt where it has one.

    Raises:
        RowError: There is none, it is of another shape, or there are two system prompts.
    """
    value = row.get("prompt")
    if isinstance(value, list):
        return read_turns(row, "prompt")
    text = read_text(row, "prompt")
    rendered = text.lstrip().startswith(START)
    turns = parse_prompt(text) if rendered else ({"role": "user", "content": text},)
    system = read_text(row, "system", required=False)
    if not system:
        return turns
    if turns and turns[0]["role"] == "system":
        raise RowError("two system prompts", "`system`, and a system turn")
    return ({"role": "system", "content": system}, *turns)
