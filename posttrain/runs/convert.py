"""Rewrite a file of rows in another format; what is lost on the way is counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from posttrain.config.convert import ConvertConfig
from posttrain.data.formats import FORMATS, Format, choose_format, detect_format
from posttrain.data.formats.fields import scalar_text
from posttrain.data.formats.gsm8k import CALCULATOR
from posttrain.data.formats.messages import TURN_KEYS
from posttrain.data.formats.text import (
    TEXT_FIELDS,
    convert_text,
    find_conversation,
    find_text_field,
)
from posttrain.data.formats.writers import (
    WRITERS,
    drop_features,
    find_unheld,
    list_taken,
    write_row,
)
from posttrain.data.readers import scan_rows
from posttrain.data.records import Chat, Content, Origin, Reject, Row, RowError, Text
from posttrain.data.renaming import check_columns, rename_row
from posttrain.errors import ConfigError, DataError
from posttrain.files import write_jsonl
from posttrain.logs import show
from posttrain.runs.row_files import check_row_file, holds_findings, write_row_file

_DETECTION_ROWS = 50
_TURN_LISTS = ("messages", "conversations", "conversation", "prompt", "completion",
               "chosen", "rejected", "chosen_messages", "rejected_messages")  # fmt: skip
_COLUMN_OPTIONS = ("instruction", "input", "output", "system")
_CALL_KEYS = {"id", "type", "function", "name", "arguments", "parameters"}
_TEXT = Format("text", TEXT_FIELDS[:1], convert_text, TEXT_FIELDS[1:])
# What reading a format leaves out by its own rules, told however the rest is written.
_LEFT_OUT: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "gsm8k": ("calculator notes <<...>>", lambda row: bool(CALCULATOR.search(row["answer"]))),
    "glaive": ("the words on how to call functions", lambda row: True),
    "toolace": ("the words on how to call functions", lambda row: True),
    "first_turn_preference": ("turns after the first ones that differ", lambda row: True),
}


@dataclass
class _Counts:
    """What became of the rows."""

    written: int = 0
    rejects: list[Reject] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    first: list[Row] = field(default_factory=list)
    """The first rows as written."""


def convert_file(config: ConvertConfig) -> None:
    """Convert a file and say what became of each row and field.

    Raises:
        ConfigError: A file would be overwritten, or the output's name says no kind of file.
        DataError: The file cannot be read, its format is not known, or no row can be converted.
    """
    rejects_path = _rejects_path(config)
    _check_places(config, rejects_path)
    rows = scan_rows(config.path, limit=config.limit)
    first = list(islice(rows, _DETECTION_ROWS))
    name, evidence = _choose(config, first)
    counts = _Counts()
    write_row_file(config.out, _convert_rows(config, name, chain(first, rows), counts))
    if counts.rejects:
        write_jsonl(rejects_path, (reject.to_json() for reject in counts.rejects))
    else:
        rejects_path.unlink(missing_ok=True)
    show(f"format: {name} ({evidence})")
    read = counts.written + len(counts.rejects)
    show(f"{read} rows read, {counts.written} written to {config.out}")
    _show_losses(counts, rejects_path)
    _show_way_back(config, counts)


def _check_places(config: ConvertConfig, rejects_path: Path) -> None:
    check_row_file(config.out)
    if config.path.resolve() in (config.out.resolve(), rejects_path.resolve()):
        raise ConfigError(f"out: {config.out} is the file to read", hint="choose another name")
    for path in (config.out, rejects_path):
        # Findings of an earlier conversion, which may have written nothing else, are replaced.
        own = path == rejects_path and holds_findings(path)
        if path.exists() and not own and not config.overwrite:
            raise ConfigError(
                f"out: {path} exists", hint="overwrite=true replaces it; or choose another name"
            )


def _rejects_path(config: ConvertConfig) -> Path:
    # The whole name, for x.csv and x.jsonl may lie side by side.
    return config.out.with_name(f"{config.out.name}.rejects.jsonl")


def _choose(config: ConvertConfig, first: list[tuple[Origin, Row | RowError]]) -> tuple[str, str]:
    """Settle the format of the rows.

    Raises:
        DataError: None of the first rows can be read, or has a column that is named, or no format
            fits.
    """
    good = [(origin, row) for origin, row in first if not isinstance(row, RowError)]
    if not good:
        origin, broken = first[0]
        assert isinstance(broken, RowError)
        raise DataError(
            f"{origin}: {broken.reason} ({broken.detail}); none of the first {len(first)} rows can "
            "be read",
            hint="check that this is the file you meant",
        )
    check_columns(config.columns, good)
    kind = WRITERS[config.to].kind
    if kind == "text" and config.format in ("auto", "text"):
        return "text", "the first of `text`, `content`, and else the turns of a conversation"
    kind = "chat" if kind == "text" else kind
    renamed = [_rename(row, config) for _, row in good]
    return choose_format(config.format, renamed, str(config.path), kind)


def _rename(row: Row, config: ConvertConfig) -> Row:
    return rename_row(row, config.columns, {}, optional=config.columns)


def _convert_rows(
    config: ConvertConfig,
    name: str,
    rows: Iterable[tuple[Origin, Row | RowError]],
    counts: _Counts,
) -> Iterator[Row]:
    """Yield the converted rows and count the others.

    Raises:
        DataError: There is none.
    """
    for origin, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            row = _rename(row, config)
            result, losses = _rewrite(row, _find_reader(row, name), name, config)
        except RowError as error:
            shown = getattr(error, "row", None) if isinstance(row, RowError) else row
            counts.rejects.append(Reject(origin, error.reason, error.detail, shown))
            continue
        counts.losses.update(losses)
        if name in _LEFT_OUT and name != config.to and _LEFT_OUT[name][1](row):
            counts.left_out[_LEFT_OUT[name][0]] += 1
        counts.written += 1
        if len(counts.first) < _DETECTION_ROWS:
            counts.first.append(result)
        yield result
    if not counts.written:
        raise _none_written(counts.rejects, config)


def _find_reader(row: Row, name: str) -> Format:
    if name != "text":
        return FORMATS[name]
    conversation = None if find_text_field(row) else find_conversation(row)
    return FORMATS[conversation] if conversation else _TEXT


def _none_written(rejects: list[Reject], config: ConvertConfig) -> DataError:
    rejects_path = _rejects_path(config)
    write_jsonl(rejects_path, (reject.to_json() for reject in rejects))
    worst = rejects[0]
    detail = f" ({worst.detail})" if worst.detail else ""
    return DataError(
        f"{worst.origin}: {worst.reason}{detail}; none of {len(rejects)} rows can be converted",
        hint=f"{_advise_column(worst, config)}each row's reason is in {rejects_path}",
    )


def _advise_column(worst: Reject, config: ConvertConfig) -> str:
    """Say how a column that a row lacks is named, where it lacks one."""
    missing = re.fullmatch(r"no `(\w+)`", worst.reason)
    if missing is None or not isinstance(worst.row, dict) or missing[1] in worst.row:
        return ""
    name = missing[1]
    row: Row = worst.row
    seen = ", ".join(config.columns.get(column, column) for column in row)
    # The options mean rows as alpaca has them.
    optional = config.format == "alpaca" and name in _COLUMN_OPTIONS
    option = f"--{name}-col NAME or " if optional else ""
    return f"the row has: {seen}; name its column with {option}columns.{name}=NAME; "


def _rewrite(row: Row, known: Format, name: str, config: ConvertConfig) -> tuple[Row, list[str]]:
    """Return the row in the wanted format, and what it had that is not in there."""
    content = known.convert(row)
    to = config.to
    flat = name != "text" and not any(isinstance(value, list | dict) for value in row.values())
    if name == to and (flat or to == "alpaca"):
        # Only the row itself still parts the instruction from its input.
        parts = ("instruction", "input", "output") if to == "alpaca" else ()
        return {**{part: row.get(part) or "" for part in parts}, **_without(row, parts)}, []
    unheld = find_unheld(content, to)
    others = _list_others(row, known, content)
    result = write_row(drop_features(content, unheld, to), to, others)
    # A text leaves the fields beside it as they are, turns among them.
    lost = [] if isinstance(content, Text) else find_lost_keys(row)
    losses = [*unheld, *lost, *_find_conflicts(others, result, content, to)]
    if losses and config.lossy == "reject":
        more = f"and {', '.join(losses[1:])}; " if losses[1:] else ""
        raise RowError(f"{to} has no place for {losses[0]}", f"{more}lossy=count leaves it out")
    return result, losses


def _without(row: Row, names: Iterable[str]) -> Row:
    return {key: value for key, value in row.items() if key not in names}


def _list_others(row: Row, known: Format, content: Content) -> Row:
    """List the fields of a row that its format gives no meaning, as they stand, and its keys."""
    used = {*known.fields, *known.optional}
    others: Row = {}
    for key, value in row.items():
        nested = isinstance(value, list | dict)
        if value is not None and (key not in used or (key in content.keys and not nested)):
            others[key] = value
    for key, text in content.keys.items():
        if not key.startswith("metadata."):
            others.setdefault(key, text)
    return others


def find_lost_keys(row: Row) -> list[str]:
    """Name the keys of a row's turns that no reader knows.

    Args:
        row: As read.

    Returns:
        ``messages[].KEY`` for the keys that hold something, each once.
    """
    lost: dict[str, None] = {}
    for name in _TURN_LISTS:
        turns = row.get(name)
        for turn in turns if isinstance(turns, list) else (turns,):
            if not isinstance(turn, dict):
                continue
            lost.update({f"{name}[].{k}": None for k in turn.keys() - TURN_KEYS if _fills(turn[k])})
            calls = turn.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                keys = call.keys() - _CALL_KEYS if isinstance(call, dict) else ()
                lost.update({f"{name}[].tool_calls[].{key}": None for key in keys})
    return sorted(lost)


def _fills(value: Any) -> bool:
    return value is not None and value != [] and value != {} and value != ""


def _find_conflicts(others: Row, result: Row, content: Content, to: str) -> list[str]:
    """Name the fields that would mean something else in the wanted format, and were left out."""
    taken = list_taken(result, to)
    reference = content.reference if isinstance(content, Chat) else None
    return [
        f"`{key}`"
        for key, value in others.items()
        if key in taken
        and _fills(value)
        and value != result.get(key)
        and scalar_text(value) != reference
    ]


def _show_losses(counts: _Counts, place: Path) -> None:
    if counts.rejects:
        show(f"{len(counts.rejects)} rows rejected, see {place}:")
    for reason, count in Counter(reject.reason for reject in counts.rejects).most_common():
        show(f"  {count} × {reason}")
    for loss, count in counts.losses.most_common():
        show(f"{count} rows lost {loss}")
    for part, count in counts.left_out.most_common():
        show(f"left out of {count} rows: {part}")


def _show_way_back(config: ConvertConfig, counts: _Counts) -> None:
    """Say how the file is read again where its rows look like something else too."""
    kind = WRITERS[config.to].kind
    if kind == "text":
        return
    found = detect_format(counts.first, str(config.out), kind)[0]
    if found != config.to:
        show(f"to read it again set format: {config.to}; its rows look like {found}")
