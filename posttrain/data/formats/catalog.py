"""Every format by its name: the fields and signs it is known by, and its converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.chatml import START, convert_chatml
from posttrain.data.formats.choice import PASSAGES, convert_choice, shows_choice
from posttrain.data.formats.dolci import convert_dolci
from posttrain.data.formats.dolly import convert_dolly
from posttrain.data.formats.gsm8k import convert_gsm8k
from posttrain.data.formats.kto import CARRIERS, convert_kto, read_label
from posttrain.data.formats.math import convert_math
from posttrain.data.formats.mcq import convert_mcq
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.messages_json import convert_messages_json
from posttrain.data.formats.preference import (
    TRANSCRIPT,
    convert_first_turn_pair,
    convert_instruction_pair,
    convert_messages_pair,
    convert_preference,
    convert_sharegpt_pair,
    convert_stack_exchange,
    convert_transcript_pair,
)
from posttrain.data.formats.prompt import REFERENCES, convert_prompt
from posttrain.data.formats.prompt_completion import convert_prompt_completion
from posttrain.data.formats.query_response import (
    convert_input_output,
    convert_prompt_response,
    convert_query_response,
    convert_question_answer,
    is_bare_answer,
    is_bare_output,
)
from posttrain.data.formats.sharegpt import convert_sharegpt
from posttrain.data.formats.tool_text import (
    CALL_TAG,
    convert_glaive,
    convert_toolace,
    shows_glaive,
    shows_toolace,
)
from posttrain.data.formats.xlam import convert_xlam
from posttrain.data.records import Content, Row


@dataclass(frozen=True)
class Format:
    """A shape of rows."""

    kind: str
    """What its rows become: ``chat`` or ``preference``."""
    fields: tuple[str, ...]
    """Fields by which it is recognized."""
    convert: Callable[[Row], Content]
    optional: tuple[str, ...] = ()
    """Other fields whose meaning it knows."""
    sign: str = ""
    """What its values look like, where other formats have the same fields."""
    shows: Callable[[Row], bool] = lambda row: True
    """Whether a row with the fields has the sign."""
    every: bool = False
    """Whether all rows must look so, not only most of them."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Another name of a field that it is recognized by as well."""

    def fits(self, row: Row) -> bool:
        """Whether a row looks like this format."""
        found = (name in row or self.also.get(name) in row for name in self.fields)
        return all(found) and self.shows(row)

    def fits_all(self, rows: Sequence[Row]) -> bool:
        """Whether some rows look like this format: most of them, or every one."""
        count = sum(map(self.fits, rows))
        return count == len(rows) if self.every else count * 2 > len(rows)

    @property
    def evidence(self) -> str:
        """What is looked for, in words."""
        names = (
            f"`{name}` or `{self.also[name]}`" if name in self.also else f"`{name}`"
            for name in self.fields
        )
        shown = ", ".join(names)
        if not shown:
            return self.sign
        return f"{shown} ({self.sign})" if self.sign else shown


def _has_dolci_turns(row: Row) -> bool:
    turns = row["messages"] if isinstance(row["messages"], list) else ()
    return any(
        isinstance(turn, dict)
        and ({"functions", "function_calls"} & turn.keys() or turn.get("role") == "environment")
        for turn in turns
    )


def _has_label(row: Row) -> bool:
    return read_label(row) is not None and any(name in row for name in CARRIERS)


def _is_rendered(row: Row) -> bool:
    return isinstance(row["text"], str) and row["text"].lstrip().startswith(START)


def _has_message_lists(row: Row) -> bool:
    return isinstance(row["chosen"], list) and isinstance(row["rejected"], list)


def _have_several_turns(row: Row) -> bool:
    answers = row["chosen"], row["rejected"]
    return (
        all(isinstance(a, list) and a and isinstance(a[0], dict) for a in answers)
        and all(answer[0].get("role") == "assistant" for answer in answers)
        and any(len(answer) > 1 for answer in answers)
    )


def _is_no_pair(row: Row) -> bool:
    return "chosen" not in row


def _is_dialogue(row: Row) -> bool:
    return isinstance(row["messages"], list)


def _has_turns(row: Row) -> bool:
    # Under the rarer name there may be anything, such as a number or a text.
    return "conversations" in row or isinstance(row["conversation"], list)


def _are_transcripts(row: Row) -> bool:
    return all(
        isinstance(row[name], str) and row[name].lstrip().startswith(TRANSCRIPT.strip())
        for name in ("chosen", "rejected")
    )


_HISTORY = ("system", "history")
_AROUND = ("system", "tools", "functions")
_SINGULAR = {"conversations": "conversation"}

# The closer look comes first: the first format that fits most of the rows is taken.
FORMATS: dict[str, Format] = {
    "messages_json": Format("chat", ("messages_json",), convert_messages_json, ("tools_json",)),
    "kto": Format(
        "chat",
        ("label",),
        convert_kto,
        (*CARRIERS, "prompt", *_AROUND, "reference"),
        "true or false, beside a conversation",
        _has_label,
    ),
    "dolci": Format(
        "chat",
        ("messages",),
        convert_dolci,
        sign="with `functions`, `function_calls` or the role `environment`",
        shows=_has_dolci_turns,
    ),
    "glaive": Format(
        "chat",
        (),
        convert_glaive,
        ("chat", "messages", "conversations", *_AROUND, "reference"),
        f"a `chat` with ASSISTANT: turns beside `system`, or {CALL_TAG} in an answer",
        shows_glaive,
    ),
    "toolace": Format(
        "chat",
        (),
        convert_toolace,
        ("messages", "conversations", *_AROUND, "reference"),
        "a system prompt that lists functions as JSON, and [name(argument=...)] as an answer",
        shows_toolace,
    ),
    "messages": Format(
        "chat", ("messages",), convert_messages, (*_AROUND, "reference"), shows=_is_dialogue
    ),
    "sharegpt": Format(
        "chat",
        ("conversations",),
        convert_sharegpt,
        (*_AROUND, "reference", "conversation"),
        shows=lambda row: _is_no_pair(row) and _has_turns(row),
        also=_SINGULAR,
    ),
    "xlam": Format("chat", ("query", "tools", "answers"), convert_xlam),
    "math": Format("chat", ("problem", "solution"), convert_math),
    "mcq": Format(
        "chat",
        ("stem", "options", "answer", "explanation"),
        convert_mcq,
        ("grade", "standard", "standard_description", "difficulty"),
    ),
    "multiple_choice": Format(
        "chat",
        (),
        convert_choice,
        (
            "question",
            "stem",
            "options",
            "choices",
            "answer_options",
            "answerKey",
            "label",
            "answer",
            *PASSAGES,
            "explanation",
            "other",
        ),
        "a question with options, and which of them is right",
        shows_choice,
    ),
    "question_answer": Format(
        "chat",
        ("question", "answer"),
        convert_question_answer,
        (*_HISTORY, "reference"),
        "none with a `####` line, which gsm8k has",
        is_bare_answer,
        every=True,
    ),
    "gsm8k": Format("chat", ("question", "answer"), convert_gsm8k),
    "alpaca": Format(
        "chat", ("instruction", "output"), convert_alpaca, ("input", "reference", *_HISTORY)
    ),
    "dolly": Format("chat", ("instruction", "response"), convert_dolly, ("context", "system")),
    "query_response": Format(
        "chat", ("query", "response"), convert_query_response, (*_HISTORY, "reference")
    ),
    "input_output": Format(
        "chat",
        ("input", "output"),
        convert_input_output,
        (*_HISTORY, "reference"),
        "without an instruction",
        is_bare_output,
        every=True,
    ),
    "prompt_completion": Format(
        "chat", ("prompt", "completion"), convert_prompt_completion, (*_AROUND, "reference")
    ),
    "prompt_response": Format(
        "chat",
        ("prompt", "response"),
        convert_prompt_response,
        (*_HISTORY, "reference"),
        shows=_is_no_pair,
    ),
    "prompt": Format(
        "chat", ("prompt",), convert_prompt, (*_AROUND, *REFERENCES), shows=_is_no_pair
    ),
    "chatml": Format(
        "chat", ("text",), convert_chatml, sign=f"starting with {START}", shows=_is_rendered
    ),
    "first_turn_preference": Format(
        "preference",
        ("prompt", "chosen", "rejected"),
        convert_first_turn_pair,
        _AROUND,
        "answers of several turns, of which the first ones that differ are compared and later ones "
        "left out",
        _have_several_turns,
    ),
    "preference": Format(
        "preference",
        ("prompt", "chosen", "rejected"),
        convert_preference,
        _AROUND,
    ),
    "sharegpt_preference": Format(
        "preference",
        ("conversations", "chosen", "rejected"),
        convert_sharegpt_pair,
        (*_AROUND, "conversation"),
        shows=_has_turns,
        also=_SINGULAR,
    ),
    "alpaca_preference": Format(
        "preference",
        ("instruction", "chosen", "rejected"),
        convert_instruction_pair,
        ("input", "tools", "functions", *_HISTORY),
    ),
    "messages_preference": Format(
        "preference",
        ("chosen", "rejected"),
        convert_messages_pair,
        _AROUND,
        "both lists of messages with one beginning",
        _has_message_lists,
    ),
    "v1_preference": Format(
        "preference",
        ("chosen_messages", "rejected_messages"),
        convert_messages_pair,
        _AROUND,
    ),
    "hh_rlhf": Format(
        "preference",
        ("chosen", "rejected"),
        convert_transcript_pair,
        _AROUND,
        "both transcripts of Human: and Assistant:",
        _are_transcripts,
    ),
    "stack_exchange": Format(
        "preference", ("question", "response_j", "response_k"), convert_stack_exchange
    ),
}
