"""One pure converter per input format: row -> content. Detection looks at rows and says why.

A converter gets one row (a mapping) and returns a Chat or a Preference, or raises RowError with a
countable reason. To add a format: a module here, an entry in FORMATS, its name in the recipe's
``FormatName``. Plain text has no format of its own: see ``formats.text``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.formats.alpaca import convert_alpaca
from posttrain.data.formats.chatml import START, convert_chatml
from posttrain.data.formats.dolci import convert_dolci
from posttrain.data.formats.dolly import convert_dolly
from posttrain.data.formats.gsm8k import convert_gsm8k
from posttrain.data.formats.kto import convert_kto
from posttrain.data.formats.math import convert_math
from posttrain.data.formats.mcq import convert_mcq
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.messages_json import convert_messages_json
from posttrain.data.formats.preference import (
    convert_first_turn_pair,
    convert_instruction_pair,
    convert_messages_pair,
    convert_preference,
    convert_sharegpt_pair,
    convert_stack_exchange,
)
from posttrain.data.formats.prompt import REFERENCES, convert_prompt
from posttrain.data.formats.prompt_completion import convert_prompt_completion
from posttrain.data.formats.query_response import (
    convert_input_output,
    convert_query_response,
    convert_question_answer,
    is_bare_answer,
    is_bare_output,
)
from posttrain.data.formats.sharegpt import convert_sharegpt
from posttrain.data.formats.xlam import convert_xlam
from posttrain.data.records import Content, Row
from posttrain.errors import DataError


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

    def fits(self, row: Row) -> bool:
        """Whether a row looks like this format."""
        return all(field in row for field in self.fields) and self.shows(row)

    def fits_all(self, rows: Sequence[Row]) -> bool:
        """Whether some rows look like this format: most of them, or every one."""
        count = sum(map(self.fits, rows))
        return count == len(rows) if self.every else count * 2 > len(rows)

    @property
    def evidence(self) -> str:
        """What is looked for, in words."""
        shown = ", ".join(f"`{field}`" for field in self.fields)
        return f"{shown} ({self.sign})" if self.sign else shown


def _has_dolci_turns(row: Row) -> bool:
    turns = row["messages"] if isinstance(row["messages"], list) else ()
    return any(
        isinstance(turn, dict)
        and ({"functions", "function_calls"} & turn.keys() or turn.get("role") == "environment")
        for turn in turns
    )


def _has_label(row: Row) -> bool:
    return isinstance(row["label"], bool) and ("messages" in row or "conversations" in row)


def _is_rendered(row: Row) -> bool:
    return isinstance(row["text"], str) and row["text"].lstrip().startswith(START)


def _has_message_lists(row: Row) -> bool:
    return isinstance(row["chosen"], list) and isinstance(row["rejected"], list)


def _is_no_pair(row: Row) -> bool:
    return "chosen" not in row


_HISTORY = ("system", "history")

# The closer look comes first: the first format that fits most of the rows is taken.
FORMATS: dict[str, Format] = {
    "messages_json": Format("chat", ("messages_json",), convert_messages_json, ("tools_json",)),
    "kto": Format(
        "chat",
        ("label",),
        convert_kto,
        ("messages", "conversations", "tools", "system", "reference"),
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
    "messages": Format("chat", ("messages",), convert_messages, ("tools", "reference")),
    "sharegpt": Format(
        "chat", ("conversations",), convert_sharegpt, ("system", "tools"), shows=_is_no_pair
    ),
    "xlam": Format("chat", ("query", "tools", "answers"), convert_xlam),
    "math": Format("chat", ("problem", "solution"), convert_math),
    "question_answer": Format(
        "chat",
        ("question", "answer"),
        convert_question_answer,
        _HISTORY,
        "none with a `####` line, which gsm8k has",
        is_bare_answer,
        every=True,
    ),
    "gsm8k": Format("chat", ("question", "answer"), convert_gsm8k),
    "mcq": Format(
        "chat",
        ("stem", "options", "answer", "explanation"),
        convert_mcq,
        ("grade", "standard", "standard_description", "difficulty"),
    ),
    "alpaca": Format(
        "chat", ("instruction", "output"), convert_alpaca, ("input", "reference", *_HISTORY)
    ),
    "dolly": Format("chat", ("instruction", "response"), convert_dolly, ("context", "system")),
    "query_response": Format("chat", ("query", "response"), convert_query_response, _HISTORY),
    "input_output": Format(
        "chat",
        ("input", "output"),
        convert_input_output,
        _HISTORY,
        "without an instruction",
        is_bare_output,
        every=True,
    ),
    "prompt_completion": Format(
        "chat", ("prompt", "completion"), convert_prompt_completion, ("system", "tools")
    ),
    "prompt": Format(
        "chat", ("prompt",), convert_prompt, ("system", "tools", *REFERENCES), shows=_is_no_pair
    ),
    "chatml": Format(
        "chat", ("text",), convert_chatml, sign=f"starting with {START}", shows=_is_rendered
    ),
    "preference": Format(
        "preference",
        ("prompt", "chosen", "rejected"),
        convert_preference,
        ("system", "tools"),
    ),
    "sharegpt_preference": Format(
        "preference",
        ("conversations", "chosen", "rejected"),
        convert_sharegpt_pair,
        ("system", "tools"),
    ),
    "alpaca_preference": Format(
        "preference",
        ("instruction", "chosen", "rejected"),
        convert_instruction_pair,
        ("input", *_HISTORY),
    ),
    "messages_preference": Format(
        "preference",
        ("chosen", "rejected"),
        convert_messages_pair,
        ("tools",),
        "both lists of messages with one beginning",
        _has_message_lists,
    ),
    "v1_preference": Format(
        "preference",
        ("chosen_messages", "rejected_messages"),
        convert_messages_pair,
        ("tools",),
    ),
    "stack_exchange": Format(
        "preference", ("question", "response_j", "response_k"), convert_stack_exchange
    ),
    "first_turn_preference": Format(
        "preference",
        ("prompt", "chosen", "rejected"),
        convert_first_turn_pair,
        ("system", "tools"),
        "only where asked for: it leaves out later turns",
        lambda row: False,
    ),
}


def choose_format(wanted: str, rows: Sequence[Row], place: str, kind: str) -> tuple[str, str]:
    """Settle the format of some rows.

    Args:
        wanted: A format's name, which wins over what the rows look like; or ``auto``.
        rows: A few rows of one file, at least one.
        place: The file, for the error.
        kind: What the rows shall become: ``chat`` or ``preference``.

    Returns:
        The format's name, and why.

    Raises:
        DataError: No format fits, or the wanted one is of another kind.
    """
    if wanted == "auto":
        return detect_format(rows, place, kind)
    if wanted not in FORMATS or FORMATS[wanted].kind != kind:
        known = ", ".join(name for name, known in FORMATS.items() if known.kind == kind)
        raise DataError(
            f"{place}: rows of the format {wanted} are no {kind} rows",
            hint=f"{kind} formats are: {known}",
        )
    return wanted, f"as `format: {wanted}` says"


def detect_format(rows: Sequence[Row], place: str, kind: str = "chat") -> tuple[str, str]:
    """Find the format of some rows.

    Args:
        rows: A few rows of one file, at least one.
        place: The file, for the error.
        kind: What the rows shall become.

    Returns:
        The format's name, and the evidence in words, with what else the rows look like.

    Raises:
        DataError: No format of this kind fits most of the rows.
    """
    formats = {name: known for name, known in FORMATS.items() if known.kind == kind}
    likely = [name for name, known in formats.items() if known.fits_all(rows)]
    if not likely:
        raise DataError(_describe_unknown(rows, place, kind), hint=_advise(rows, kind, formats))
    name, *others = likely
    fitting = sum(map(formats[name].fits, rows))
    of = f"{fitting} of the first {len(rows)} rows have {formats[name].evidence}"
    # A format whose fields are all among those of the chosen one is only a vaguer guess.
    others = [o for o in others if not set(formats[o].fields) <= set(formats[name].fields)]
    if others:
        seen = ", ".join(f"{o} ({formats[o].evidence})" for o in others)
        of += f"; they look like {seen} too: set `format` if that is meant"
    return name, of


def _describe_unknown(rows: Sequence[Row], place: str, kind: str) -> str:
    seen = ", ".join(f"`{field}`" for field in rows[0])
    return f"{place}: no known {kind} format has the fields {seen}"


def _advise(rows: Sequence[Row], kind: str, formats: dict[str, Format]) -> str:
    """Say what could be done: another kind of stage, or other names of columns."""
    elsewhere: dict[str, Any] = {
        name: known
        for name, known in FORMATS.items()
        if known.kind != kind and known.fits_all(rows)
    }
    if elsewhere:
        name, known = next(iter(elsewhere.items()))
        return (
            f"they look like {name} ({known.evidence}), whose rows become {known.kind} data: "
            "choose a stage that learns from that"
        )
    example = "alpaca" if kind == "chat" else next(iter(formats))
    columns = ", ".join(f"{field}: NAME" for field in formats[example].fields)
    return (
        f"map the names with stages.sft.data.sources.0.columns='{{{columns}}}' (or the stage's own "
        "name; of `convert`: columns=...); "
        f"known {kind} formats: {', '.join(formats)}; see docs/formats.md"
    )
