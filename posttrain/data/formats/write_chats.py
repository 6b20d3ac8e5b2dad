"""Conversations -> rows, one function a format.

Each writes turns and what its format has a place for; ``writers`` sees to it that there is nothing
else, and that the row is read as the same conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.data.formats.chatml import END, START
from posttrain.data.records import Chat, Message, Row, RowError

_SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def dump(value: Any) -> str:
    """Write a nested part of a row as JSON text."""
    return json.dumps(value, ensure_ascii=False)


def add_reference(chat: Chat) -> Row:
    """The field ``reference`` where the record states one."""
    return {} if chat.reference is None else {"reference": chat.reference}


def write_messages(chat: Chat) -> Row:
    """Return the row ``{messages}``, with ``tools`` and ``reference`` where there are some."""
    tools = {"tools": list(chat.tools)} if chat.tools else {}
    return {"messages": list(chat.messages), **tools, **add_reference(chat)}


def write_messages_json(chat: Chat) -> Row:
    """Return the row ``{messages_json, tools_json}``, whose nested parts are JSON text."""
    parts = {"messages_json": dump(chat.messages), "tools_json": dump(chat.tools)}
    return {**parts, **add_reference(chat)}


def write_alpaca(chat: Chat) -> Row:
    """Return the row ``{instruction, input, output}``; ``system`` and ``history`` where needed.

    Raises:
        RowError: The turns are not the user's and the assistant's by turns.
    """
    system, history, question, answer = split_turns(chat.messages, "alpaca")
    return {
        "instruction": question,
        "input": "",
        "output": answer,
        **({"system": system} if system else {}),
        **({"history": history} if history else {}),
        **add_reference(chat),
    }


def write_question(question: str, answer: str) -> Callable[[Chat], Row]:
    """Make the writer of rows of one question and one answer.

    Args:
        question: Field of the question; earlier turns go to ``history``.
        answer: Field of the answer.

    Returns:
        The writer; it raises RowError as ``write_alpaca``.
    """

    def write(chat: Chat) -> Row:
        row = write_alpaca(chat)
        del row["input"]
        first = {question: row.pop("instruction"), answer: row.pop("output")}
        return {**first, **row}

    return write


def write_dolly(chat: Chat) -> Row:
    """Return the row ``{instruction, context, response}``; ``system`` where needed.

    Raises:
        RowError: There is more than one question.
    """
    system, history, question, answer = split_turns(chat.messages, "dolly")
    if history:
        raise RowError("dolly needs one question and one answer")
    row = {"instruction": question, "context": "", "response": answer}
    return {**row, **({"system": system} if system else {})}


def write_sharegpt(chat: Chat) -> Row:
    """Return the row ``{conversations}`` of ``{from, value}``, with ``tools`` as JSON text.

    Raises:
        RowError: A turn has both a text and calls.
    """
    tools = {"tools": dump(chat.tools)} if chat.tools else {}
    turns = [write_sharegpt_turn(message) for message in chat.messages]
    return {"conversations": turns, **tools, **add_reference(chat)}


def write_sharegpt_turn(message: Message) -> Row:
    """Return one turn ``{from, value}``; calls are JSON text.

    Raises:
        RowError: The turn has both a text and calls.
    """
    turn = {"from": _SHAREGPT_NAMES[message["role"]], "value": message["content"]}
    if calls := message.get("tool_calls"):
        if message["content"]:
            raise RowError("sharegpt has no place for text beside a call")
        functions = [call["function"] for call in calls]
        turn = {"from": "function_call", "value": dump(functions)}
    weight = message.get("loss_weight")
    return turn if weight is None else {**turn, "weight": weight}


def write_prompt_completion(chat: Chat) -> Row:
    """Return the row ``{prompt, completion}``: the turns up to the last user's, and the others.

    Raises:
        RowError: Nothing comes after the last user turn.
    """
    users = [i for i, message in enumerate(chat.messages) if message["role"] == "user"]
    start = users[-1] + 1 if users else 0
    if not 0 < start < len(chat.messages):
        raise RowError("prompt_completion needs a question and an answer")
    row = write_messages(chat)
    turns = row.pop("messages")
    return {"prompt": turns[:start], "completion": turns[start:], **row}


def write_prompt(chat: Chat) -> Row:
    """Return the row ``{prompt}`` of messages, with ``tools`` and ``reference``.

    Raises:
        RowError: The conversation ends with an answer.
    """
    if chat.messages[-1]["role"] == "assistant":
        raise RowError("prompt has no place for an answer")
    row = write_messages(chat)
    return {"prompt": row.pop("messages"), **row}


def write_gsm8k(chat: Chat) -> Row:
    """Return the row ``{question, answer}``, whose answer ends with ``#### final``.

    Raises:
        RowError: There is more than one question, or a system prompt.
    """
    question, answer = read_single(chat.messages, "gsm8k")
    return {"question": question, "answer": answer}


def write_math(chat: Chat) -> Row:
    """Return the row ``{problem, solution}``, whose last box holds the reference.

    Raises:
        RowError: As ``write_gsm8k``.
    """
    problem, solution = read_single(chat.messages, "math")
    return {"problem": problem, "solution": solution}


def write_chatml(chat: Chat) -> Row:
    """Return the row ``{text}``: all turns rendered as ChatML."""
    turns = (f"{START}{m['role']}\n{m['content']}{END}\n" for m in chat.messages)
    return {"text": "".join(turns)}


def write_dolci(chat: Chat) -> Row:
    """Return the row ``{messages}`` with Pythonic ``function_calls`` and ``functions`` as text."""
    turns: list[Row] = []
    for message in chat.messages:
        calls = message.get("tool_calls", ())
        text = "\n".join(_write_call(call["function"]) for call in calls) or None
        role = "environment" if message["role"] == "tool" else message["role"]
        content = (message["content"] or None) if calls else message["content"]
        turns.append({"role": role, "content": content, "functions": None, "function_calls": text})
    if chat.tools:
        turns[0]["functions"] = dump([tool["function"] for tool in chat.tools])
    return {"messages": turns}


def _write_call(function: dict[str, Any]) -> str:
    values = (f"{name}={dump(value)}" for name, value in function["arguments"].items())
    return f"{function['name']}({', '.join(values)})"


def write_xlam(chat: Chat) -> Row:
    """Return the row ``{query, tools, answers}``, the last two as JSON text.

    Raises:
        RowError: It is not one question with its calls.
    """
    if [m["role"] for m in chat.messages] != ["user", "assistant"] or chat.messages[1]["content"]:
        raise RowError("xlam needs one question and its calls")
    calls = chat.messages[1].get("tool_calls", ())
    functions = [tool["function"] for tool in chat.tools]
    return {
        "query": chat.messages[0]["content"],
        "tools": dump(functions),
        "answers": dump([call["function"] for call in calls]),
    }


def split_turns(messages: Sequence[Message], name: str) -> tuple[str, list[list[str]], str, str]:
    """Take a conversation of user and assistant by turns apart.

    Args:
        messages: Texts only.
        name: The format, for the reject.

    Returns:
        System prompt (empty where there is none), earlier [user, assistant] pairs, last question
        and answer.

    Raises:
        RowError: The turns are others.
    """
    turns = list(messages)
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    if not turns or [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise RowError(f"{name} needs turns of user and assistant by turns")
    texts = [turn["content"] for turn in turns]
    history = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    return system, history, texts[-2], texts[-1]


def read_single(messages: Sequence[Message], name: str) -> tuple[str, str]:
    """Return the texts of one question and its answer.

    Raises:
        RowError: There is anything else.
    """
    if [message["role"] for message in messages] != ["user", "assistant"]:
        raise RowError(f"{name} needs one question and one answer")
    return messages[0]["content"], messages[1]["content"]
