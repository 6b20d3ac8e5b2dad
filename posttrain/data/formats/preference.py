"""Pairs of a better and a worse answer to one prompt, in every shape they come in.

``prompt``, ``chosen``, ``rejected``: each text, a message, or a list of messages; the prompt may be
rendered ChatML. The other shapes are brought into this one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.chatml import START, strip_answer
from posttrain.data.formats.fields import describe, other_fields, read_text
from posttrain.data.formats.messages import convert_message, read_row_tools, read_turns
from posttrain.data.formats.prompt import read_prompt
from posttrain.data.records import Message, Preference, Row, RowError

Messages = tuple[Message, ...]
_ANSWERS = ("chosen", "rejected")
_FIELDS = frozenset(("prompt", *_ANSWERS, "system", "tools", "functions"))
_SHAREGPT_FIELDS = _FIELDS | {"conversations", "conversation"}
_INSTRUCTION_FIELDS = _FIELDS | {"instruction", "input", "history"}
_STACK_EXCHANGE_FIELDS = frozenset(("question", "response_j", "response_k"))
_SCORES = ("chosen_score", "rejected_score"), ("score_chosen", "score_rejected")
TRANSCRIPT = "\n\nHuman:"
"""How a transcript of Anthropic's hh-rlhf starts."""
_SPEAKER = re.compile(r"\n\n(Human|Assistant):[ ]?")


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
    prompt = row.get("prompt")
    rendered = isinstance(prompt, str) and prompt.lstrip().startswith(START)
    head = read_prompt(row)
    answers = [_read_answer(row, name, len(head) + 1, rendered=rendered) for name in _ANSWERS]
    return _build(row, head, answers, _FIELDS)


def _are_conversations(row: Row) -> bool:
    answers = [row.get(name) for name in _ANSWERS]
    return all(isinstance(a, list) and _roles(a)[:1] not in ([], ["assistant"]) for a in answers)


def _convert_full(row: Row) -> Preference:
    """Convert a row whose answers are whole conversations; ``prompt`` must be a part of them."""
    pair = convert_messages_pair({name: row[name] for name in row if name != "prompt"})
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        repeated = any(prompt.strip() == turn["content"].strip() for turn in pair.prompt)
    else:
        turns = _without_weights(read_turns(row, "prompt")) if prompt else ()
        repeated = turns == pair.prompt[: len(turns)]
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
        conversations.append(read_turns(row, name))
    return _compare_last(row, conversations, _FIELDS.union(used))


def convert_transcript_pair(row: Row) -> Preference:
    r"""Convert ``{chosen, rejected}``, two transcripts ``\n\nHuman: ...\n\nAssistant: ...``.

    Raises:
        RowError: One is no transcript, and as ``convert_messages_pair``.

    Source:
        Bai et al. 2022, arXiv:2204.05862, and its data set hh-rlhf.
    """
    conversations = [_read_transcript(read_text(row, name), name) for name in _ANSWERS]
    return _compare_last(row, conversations, _FIELDS)


def _read_transcript(text: str, name: str) -> Messages:
    head, *parts = _SPEAKER.split(text if text.startswith("\n\n") else f"\n\n{text}")
    if head.strip() or len(parts) < 4:
        raise RowError("not a transcript", f"`{name}` does not run from Human: to Assistant:")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(
        {"role": roles[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    )


def _compare_last(
    row: Row, conversations: Sequence[Messages], used: AbstractSet[str]
) -> Preference:
    """Pair two conversations that differ in their last turn."""
    prompt, other = (_without_weights(conversation[:-1]) for conversation in conversations)
    if prompt != other:
        raise RowError("chosen and rejected do not share their prompt")
    answers = [
        _check_answer(conversation[-1], name)
        for conversation, name in zip(conversations, _ANSWERS, strict=True)
    ]
    return _build(row, prompt, answers, used)


def convert_sharegpt_pair(row: Row) -> Preference:
    """Convert ``{conversations, chosen, rejected}`` with turns ``{from, value}``.

    Raises:
        RowError: As ``convert_sharegpt`` and ``convert_preference``.
    """
    prompt = read_turns(row, "conversation" if "conversation" in row else "conversations")
    answers = [_read_answer(row, name, len(prompt) + 1, rendered=False) for name in _ANSWERS]
    return _build(row, prompt, answers, _SHAREGPT_FIELDS)


def convert_instruction_pair(row: Row) -> Preference:
    """Convert ``{instruction, chosen, rejected}``; optional ``input``, ``system``, ``history``.

    Raises:
        RowError: As ``convert_alpaca`` and ``convert_preference``.
    """
    # What is asked is read as alpaca; the answer in its place is not looked at.
    prompt = convert_alpaca({**row, "output": "."}).prompt
    answers = [_read_answer(row, name, len(prompt) + 1, rendered=False) for name in _ANSWERS]
    return _build(row, prompt, answers, _INSTRUCTION_FIELDS)


def convert_first_turn_pair(row: Row) -> Preference:
    """Convert ``{prompt, chosen, rejected}`` whose answers run over several turns.

    What both answers begin with joins the prompt; the first turns that differ are compared. Later
    turns answer different things, such as results of different calls, and are left out.

    Raises:
        RowError: One answer is a part of the other, and as ``convert_preference``.
    """
    if not all(isinstance(row.get(name), list) and row[name] for name in _ANSWERS):
        raise RowError("an answer is not a list of messages")
    turns = {name: row[name] for name in _ANSWERS}
    chosen, rejected = (_without_weights(read_turns(turns, name)) for name in _ANSWERS)
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if same == min(len(chosen), len(rejected)):
        raise RowError("chosen and rejected are equal", "or one is the beginning of the other")
    answers = [
        _check_answer(turns[same], name)
        for turns, name in zip((chosen, rejected), _ANSWERS, strict=True)
    ]
    return _build(row, (*read_prompt(row), *chosen[:same]), answers, _FIELDS)


def convert_stack_exchange(row: Row) -> Preference:
    """Convert ``{question, response_j, response_k}``; ``response_j`` had more votes.

    Raises:
        RowError: As ``convert_preference``.
    """
    question, chosen, rejected = (
        read_text(row, name) for name in ("question", "response_j", "response_k")
    )
    head = ({"role": "user", "content": question},)
    answers = [{"role": "assistant", "content": text} for text in (chosen, rejected)]
    return _build(row, head, answers, _STACK_EXCHANGE_FIELDS)


def _build(
    row: Row, prompt: Messages, answers: Sequence[Message], used: AbstractSet[str]
) -> Preference:
    chosen, rejected = map(_without_weight, answers)
    if chosen == rejected:
        raise RowError("chosen and rejected are equal")
    _check_scores(row)
    if not prompt or prompt[-1]["role"] not in ("user", "tool"):
        last = prompt[-1]["role"] if prompt else "nothing before the answers"
        raise RowError("the prompt does not end with a turn to answer", last)
    return Preference(
        _without_weights(prompt), chosen, rejected, read_row_tools(row), other_fields(row, used)
    )


def _read_answer(row: Row, name: str, turn: int, *, rendered: bool) -> Message:
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
        role = {} if "from" in value else {"role": "assistant"}
        return _check_answer(convert_message({**role, **value}, turn), name)
    raise RowError(f"no `{name}`")


def _check_answer(turn: Message, name: str) -> Message:
    if turn["role"] != "assistant":
        raise RowError(f"`{name}` is not an assistant turn", turn["role"])
    if not turn["content"].strip() and "tool_calls" not in turn:
        raise RowError(f"no `{name}`")
    return turn


def _without_weights(messages: Messages) -> Messages:
    """Take off the loss weights of a prompt: in a pair, no turn of it is learned."""
    if not any("loss_weight" in message for message in messages):
        return messages
    return tuple(
        {key: value for key, value in message.items() if key != "loss_weight"}
        for message in messages
    )


def _without_weight(answer: Message) -> Message:
    """Take off an answer's loss weight, which can only be 1: a pair is learned as a whole."""
    if answer.get("loss_weight", 1) != 1:
        raise RowError("a loss weight on an answer of a pair", f"{answer['loss_weight']:g}")
    return _without_weights((answer,))[0]


def _roles(turns: Sequence[Any]) -> list[str]:
    return [
        describe(turn.get("role", turn.get("from"))) if isinstance(turn, dict) else "?"
        for turn in turns
    ]


def _check_scores(row: Row) -> None:
    for place in (row.get("metadata"), row):
        if isinstance(place, dict):
            for better, worse in _SCORES:
                if place.get(better) is not None and place.get(worse) is not None:
                    _check_order(place[better], place[worse])


def _check_order(*stated: Any) -> None:
    try:
        # A table holds its numbers as text.
        scores = [float("" if isinstance(score, bool) else score) for score in stated]
    except (TypeError, ValueError, OverflowError):
        raise RowError("a score is not a number") from None
    if not all(map(math.isfinite, scores)):
        raise RowError("a score is not a number")
    if scores[0] <= scores[1]:
        raise RowError("chosen score is not above rejected score", "{:g} and {:g}".format(*scores))
