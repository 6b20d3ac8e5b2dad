"""Pairs of a better and a worse answer to one prompt, in every shape they come in.

``prompt``, ``chosen``, ``rejected``: each text, a message, or a list of messages; the prompt may be
rendered ChatML. The other shapes are brought into this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.chatml import START, parse_prompt, strip_answer
from posttrain.data.formats.fields import other_texts, read_text
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.sharegpt import convert_sharegpt, read_turn
from posttrain.data.records import Message, Preference, Row, RowError

_ANSWERS = ("chosen", "rejected")
_FIELDS = ("prompt", *_ANSWERS, "system", "tools", "metadata")
_SCORES = ("chosen_score", "rejected_score"), ("score_chosen", "score_rejected")


def convert_preference(row: Row) -> Preference:
    """Convert ``{prompt, chosen, rejected}``; optional ``system``, ``tools``, ``metadata``.

    The row or its ``metadata`` may hold ``chosen_score`` and ``rejected_score``; the first must be
    higher. Answers that are whole conversations lose the prompt they begin with.

    Raises:
        RowError: A part is missing or of another shape, the answers are equal, or the scores say
            that the rejected one is as good.
    """
    if _are_conversations(row):
        return _convert_full(row)
    rendered = isinstance(row.get("prompt"), str) and row["prompt"].lstrip().startswith(START)
    answers = [_read_answer(row, name, rendered=rendered) for name in _ANSWERS]
    return _build(row, _read_prompt(row, rendered=rendered), answers, _FIELDS)


def _are_conversations(row: Row) -> bool:
    answers = [row.get(name) for name in _ANSWERS]
    return all(isinstance(a, list) and _roles(a)[:1] not in ([], ["assistant"]) for a in answers)


def _convert_full(row: Row) -> Preference:
    """Convert a row whose answers are whole conversations; ``prompt`` must be a part of them."""
    pair = convert_messages_pair({name: row[name] for name in row if name != "prompt"})
    prompt = row.get("prompt")
    turns = convert_messages({"messages": prompt}).messages if isinstance(prompt, list) else ()
    repeated = (
        any(prompt.strip() == turn["content"].strip() for turn in pair.prompt)
        if isinstance(prompt, str)
        else turns == pair.prompt[: len(turns)]
    )
    if not repeated:
        raise RowError("`prompt` is no part of the conversations of the answers")
    return pair


def convert_messages_pair(row: Row) -> Preference:
    """Convert ``{chosen, rejected}``, two conversations that differ in their last turn.

    LLaMA-Factory calls them ``chosen_messages`` and ``rejected_messages``.

    Raises:
        RowError: They do not share what comes before the last turn, and as ``convert_preference``.
    """
    used = [f"{n}_messages" if f"{n}_messages" in row else n for n in _ANSWERS]
    conversations = []
    for name in used:
        if not isinstance(row.get(name), list) or len(row[name]) < 2:
            raise RowError(f"no `{name}`", "not a list of a prompt's turns and an answer")
        conversations.append(convert_messages({"messages": row[name]}).messages)
    prompts = [conversation[:-1] for conversation in conversations]
    if prompts[0] != prompts[1]:
        raise RowError("chosen and rejected do not share their prompt")
    answers = [_check_answer(c[-1], name) for c, name in zip(conversations, used, strict=True)]
    return _build(row, list(prompts[0]), answers, (*_FIELDS, *used))


def convert_sharegpt_pair(row: Row) -> Preference:
    """Convert ``{conversations, chosen, rejected}`` with turns ``{from, value}``.

    Raises:
        RowError: As ``convert_sharegpt`` and ``convert_preference``.
    """
    prompt = convert_sharegpt(row)
    answers = []
    for name in _ANSWERS:
        value = row.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str):
            value = {"from": "gpt", "value": value}
        turn = read_turn(value, len(prompt.messages) + 1)
        answers.append(_check_answer(turn, name))
    tools = {**row, "tools": list(prompt.tools)}
    return _build(tools, list(prompt.messages), answers, (*_FIELDS, "conversations"))


def convert_instruction_pair(row: Row) -> Preference:
    """Convert ``{instruction, chosen, rejected}``; optional ``input``, ``system``, ``history``.

    Raises:
        RowError: As ``convert_alpaca`` and ``convert_preference``.
    """
    shaped = convert_alpaca({**row, "output": read_text(row, "chosen")})
    answers = [_read_answer(row, name, rendered=False) for name in _ANSWERS]
    used = (*_FIELDS, "instruction", "input", "history")
    return _build(row, list(shaped.prompt), answers, used)


def convert_first_turn_pair(row: Row) -> Preference:
    """Convert ``{prompt, chosen, rejected}`` whose answers run over several turns.

    What both answers begin with joins the prompt; the first turns that differ are compared. Later
    turns answer different things, such as results of different calls, and are left out.

    Raises:
        RowError: One answer is a part of the other, and as ``convert_preference``.
    """
    shared = [row.get(name) for name in _ANSWERS]
    if not all(isinstance(answer, list) and answer for answer in shared):
        raise RowError("an answer is not a list of messages")
    chosen, rejected = (convert_messages({"messages": answer}).messages for answer in shared)
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if same == min(len(chosen), len(rejected)):
        raise RowError("chosen and rejected are equal", "or one is the beginning of the other")
    answers = [
        _check_answer(turns[same], name)
        for turns, name in zip((chosen, rejected), _ANSWERS, strict=True)
    ]
    prompt = [*_read_prompt(row, rendered=False), *chosen[:same]]
    return _build(row, prompt, answers, _FIELDS)


def convert_stack_exchange(row: Row) -> Preference:
    """Convert ``{question, response_j, response_k}``; ``response_j`` had more votes.

    Raises:
        RowError: As ``convert_preference``.
    """
    used = ("question", "response_j", "response_k")
    renamed = dict(zip(("prompt", *_ANSWERS), map(row.get, used), strict=True))
    return convert_preference({**other_texts(row, used), **renamed})


def _build(
    row: Row, prompt: list[Message], answers: Sequence[Message], used: Sequence[str]
) -> Preference:
    if answers[0] == answers[1]:
        raise RowError("chosen and rejected are equal")
    _check_scores(row)
    shaped = convert_messages({"messages": [*prompt, *answers], "tools": row.get("tools")})
    *head, chosen, rejected = shaped.messages
    if head[-1]["role"] not in ("user", "tool"):
        raise RowError("the prompt does not end with a turn to answer", str(head[-1]["role"]))
    return Preference(tuple(head), chosen, rejected, shaped.tools, other_texts(row, used))


def _read_prompt(row: Row, *, rendered: bool) -> list[Message]:
    value = row.get("prompt")
    messages: list[Message] = []
    if system := read_text(row, "system", required=False):
        messages.append({"role": "system", "content": system})
    if isinstance(value, str) and value.strip():
        turns = parse_prompt(value) if rendered else ({"role": "user", "content": value},)
        return [*messages, *turns]
    if isinstance(value, list) and value:
        return [*messages, *value]
    raise RowError("no `prompt`")


def _read_answer(row: Row, name: str, *, rendered: bool) -> Message:
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and value:
        raise RowError(
            "an answer of several turns",
            f"`{name}`: {', '.join(_roles(value))}; `format: first_turn_preference` compares the "
            "first turns that differ",
        )
    if isinstance(value, str) and value.strip():
        return {"role": "assistant", "content": strip_answer(value) if rendered else value}
    if isinstance(value, dict):
        return _check_answer({"role": "assistant", **value}, name)
    raise RowError(f"no `{name}`")


def _check_answer(turn: Message, name: str) -> Message:
    if turn.get("role") != "assistant":
        raise RowError(f"`{name}` is not an assistant turn", str(turn.get("role")))
    if not turn.get("content") and not turn.get("tool_calls"):
        raise RowError(f"no `{name}`")
    return turn


def _roles(turns: Sequence[Any]) -> list[str]:
    return [str(turn.get("role")) if isinstance(turn, dict) else "?" for turn in turns]


def _check_scores(row: Row) -> None:
    for place in (row.get("metadata"), row):
        for names in _SCORES:
            pair = [place.get(name) for name in names] if isinstance(place, dict) else [None]
            if None not in pair:
                _check_order(pair)


def _check_order(scores: Sequence[Any]) -> None:
    chosen, rejected = (
        score if isinstance(score, int | float) and not isinstance(score, bool) else math.nan
        for score in scores
    )
    if not math.isfinite(chosen) or not math.isfinite(rejected):
        raise RowError("a score is not a number")
    if chosen <= rejected:
        raise RowError("chosen score is not above rejected score", f"{chosen:g} and {rejected:g}")
