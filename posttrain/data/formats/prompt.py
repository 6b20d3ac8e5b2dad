"""Prompts to be answered in training: ``prompt``, and what answers are graded against.

The reference is in ``reference``, ``answer`` or ``ground_truth``, or, as verl has it, in
``reward_model.ground_truth``.
"""

from __future__ import annotations

from posttrain.data.formats.chatml import START, parse_prompt
from posttrain.data.formats.fields import other_texts, read_reference, read_text
from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Chat, Row

REFERENCES = ("reference", "answer", "ground_truth")


def convert_prompt(row: Row) -> Chat:
    """Convert a row; the prompt is text, rendered ChatML, or a list of messages.

    Raises:
        RowError: There is no prompt, or it is of another shape.
    """
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt.lstrip().startswith(START):
        prompt = list(parse_prompt(prompt))
    elif not isinstance(prompt, list):
        prompt = [{"role": "user", "content": read_text(row, "prompt")}]
    if system := read_text(row, "system", required=False):
        prompt = [{"role": "system", "content": system}, *prompt]
    shaped = convert_messages({"messages": prompt, "tools": row.get("tools")})
    rewards = row.get("reward_model")
    stated = [row.get(name) for name in REFERENCES]
    stated.append(rewards.get("ground_truth") if isinstance(rewards, dict) else None)
    found = [text for value in stated if (text := read_reference({"reference": value}))]
    return Chat(
        shaped.messages,
        shaped.tools,
        found[0] if found else None,
        other_texts(row, ("prompt", "system", "tools", *REFERENCES)),
    )
