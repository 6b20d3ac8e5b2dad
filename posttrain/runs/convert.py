"""Rewrite a file of rows in another format; what is lost on the way is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from posttrain.config.convert import ConvertConfig
from posttrain.config.data import SourceConfig
from posttrain.data.formats import FORMATS, Format, choose_format
from posttrain.data.formats.writers import WRITERS, write_row
from posttrain.data.readers import check_file
from posttrain.data.records import Reject, Row, RowError
from posttrain.data.sources import open_rows
from posttrain.errors import ConfigError, DataError
from posttrain.files import write_jsonl
from posttrain.logs import show

_DETECTION_ROWS = 50
_TURN_LISTS = ("messages", "conversations", "conversation", "prompt", "completion",
               "chosen", "rejected", "chosen_messages", "rejected_messages")  # fmt: skip
_TURN_KEYS = {"role", "content", "from", "value", "text", "tool_calls", "tool_call_id", "name",
              "reasoning_content", "functions", "function_calls"}  # fmt: skip


def convert_file(config: ConvertConfig) -> None:
    """Convert a file and say what became of each row and field.

    Raises:
        ConfigError: The file would overwrite itself.
        DataError: The file cannot be read, its format is not known, or no row can be converted.
    """
    rejects_path = config.out.with_suffix(".rejects.jsonl")
    if config.path.resolve() in (config.out.resolve(), rejects_path.resolve()):
        raise ConfigError(f"out: {config.out} is the file to read", hint="choose another name")
    if config.out.suffix.lower() not in (".jsonl", ".json"):
        raise ConfigError(
            f"out: {config.out}: rows are written as JSON lines", hint="name it *.jsonl"
        )
    kind = WRITERS[config.to][0]
    source = SourceConfig(
        path=check_file(config.path),
        format=config.format,
        columns=config.columns,
        limit=config.limit,
    )
    rows = open_rows(source)
    first = list(islice(rows, _DETECTION_ROWS))
    name, evidence = choose_format(config.format, [row for _, row in first], str(config.path), kind)
    written: list[Row] = []
    rejects: list[Reject] = []
    lost: Counter[str] = Counter()
    for origin, row in chain(first, rows):
        try:
            result = _rewrite(row, name, config.to)
        except RowError as error:
            rejects.append(Reject(origin, error.reason, error.detail, row))
            continue
        lost.update(find_lost_fields(row, FORMATS[name], result))
        written.append(result)
    if rejects:
        write_jsonl(rejects_path, (reject.to_json() for reject in rejects))
    else:
        rejects_path.unlink(missing_ok=True)
    if not written:
        worst = rejects[0]
        detail = f" ({worst.detail})" if worst.detail else ""
        raise DataError(
            f"{worst.origin}: {worst.reason}{detail}; none of {len(rejects)} rows can be converted",
            hint=f"each row's reason is in {rejects_path}",
        )
    write_jsonl(config.out, written)
    show(f"format: {name} ({evidence})")
    show(f"{len(written) + len(rejects)} rows read, {len(written)} written to {config.out}")
    _show_losses(rejects, rejects_path, lost)


def _rewrite(row: Row, name: str, to: str) -> Row:
    content = FORMATS[name].convert(row)
    if name == to == "alpaca":
        # Only the row itself still parts the instruction from its input.
        parts = {part: row.get(part) or "" for part in ("instruction", "input", "output")}
        return {**parts, **{key: row[key] for key in row if key not in parts}}
    return write_row(content, to)


def find_lost_fields(row: Row, known: Format, result: Row) -> list[str]:
    """Name the fields of a row that are not in the converted one.

    Args:
        row: As read.
        known: The format it was read by; its fields are used, not lost.
        result: As written.

    Returns:
        Field names; of turns as ``messages[].KEY``, each once.
    """
    used = {*known.fields, *known.optional, *result}
    lost = [key for key, value in row.items() if value not in (None, "") and key not in used]
    for name in _TURN_LISTS:
        turns = row.get(name) if isinstance(row.get(name), list) else ()
        keys = _filled_keys(turns or ()) - _TURN_KEYS
        lost.extend(f"{name}[].{key}" for key in sorted(keys))
    return lost


def _filled_keys(turns: Iterable[object]) -> set[str]:
    return {
        key
        for turn in turns
        if isinstance(turn, dict)
        for key, value in turn.items()
        if value is not None
    }


def _show_losses(rejects: list[Reject], place: Path, lost: Counter[str]) -> None:
    if rejects:
        show(f"{len(rejects)} rows rejected, see {place}:")
    for reason, count in Counter(reject.reason for reject in rejects).most_common():
        show(f"  {count} × {reason}")
    for field, count in lost.most_common():
        show(f"left out: `{field}` of {count} rows")
