"""Preference pairs -> rows, one function a format; see ``writers``."""

from __future__ import annotations

from posttrain.data.formats.write_chats import dump, split_turns, write_sharegpt_turn
from posttrain.data.records import Preference, Row, RowError


def _add_tools(pair: Preference) -> Row:
    return {"tools": list(pair.tools)} if pair.tools else {}


def write_pair(pair: Preference) -> Row:
    """Return the row ``{prompt, chosen, rejected}`` of lists of messages, with ``tools``."""
    return {
        "prompt": list(pair.prompt),
        "chosen": [pair.chosen],
        "rejected": [pair.rejected],
        **_add_tools(pair),
    }


def write_messages_pair(pair: Preference) -> Row:
    """Return the row ``{chosen, rejected}`` of whole conversations, with ``tools``."""
    return {
        "chosen": [*pair.prompt, pair.chosen],
        "rejected": [*pair.prompt, pair.rejected],
        **_add_tools(pair),
    }


def write_sharegpt_pair(pair: Preference) -> Row:
    """Return the row ``{conversations, chosen, rejected}`` of ``{from, value}``.

    Raises:
        RowError: A turn has both a text and calls.
    """
    return {
        "conversations": [write_sharegpt_turn(message) for message in pair.prompt],
        "chosen": write_sharegpt_turn(pair.chosen),
        "rejected": write_sharegpt_turn(pair.rejected),
        **({"tools": dump(pair.tools)} if pair.tools else {}),
    }


def write_alpaca_pair(pair: Preference) -> Row:
    """Return the row ``{instruction, input, chosen, rejected}``, with ``system``, ``history``.

    Raises:
        RowError: The turns are not the user's and the assistant's by turns.
    """
    turns = (*pair.prompt, pair.chosen)
    system, history, question, chosen = split_turns(turns, "alpaca_preference")
    return {
        "instruction": question,
        "input": "",
        "chosen": chosen,
        "rejected": pair.rejected["content"],
        **({"system": system} if system else {}),
        **({"history": history} if history else {}),
    }


def write_stack_exchange(pair: Preference) -> Row:
    """Return the row ``{question, response_j, response_k}``.

    Raises:
        RowError: The prompt is more than one question.
    """
    if [message["role"] for message in pair.prompt] != ["user"]:
        raise RowError("stack_exchange needs one question")
    return {
        "question": pair.prompt[0]["content"],
        "response_j": pair.chosen["content"],
        "response_k": pair.rejected["content"],
    }


def write_transcripts(pair: Preference) -> Row:
    """Return the row ``{chosen, rejected}`` of transcripts of Human: and Assistant:.

    Raises:
        RowError: There is a turn of somebody else.
    """
    names = {"user": "Human", "assistant": "Assistant"}
    if any(message["role"] not in names for message in pair.prompt):
        raise RowError("hh_rlhf has turns of user and assistant only")
    head = "".join(f"\n\n{names[m['role']]}: {m['content']}" for m in pair.prompt)
    return {
        name: f"{head}\n\nAssistant: {answer['content']}"
        for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected))
    }
