"""Own names of columns, and of keys and roles inside of turns -> those that formats expect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from posttrain.config.data import TurnName
from posttrain.data.records import Origin, Row, RowError
from posttrain.errors import DataError

_TURN_FIELDS = (
    "messages", "conversations", "conversation", "prompt", "completion", "chosen", "rejected",
    "chosen_messages", "rejected_messages",
)  # fmt: skip
_ROLES = {"call": "function_call"}


def rename_row(
    row: Row,
    columns: Mapping[str, str],
    turns: Mapping[TurnName, str],
    optional: Collection[str] = (),
) -> Row:
    """Give columns, and keys and roles of turns, the names that formats expect.

    Args:
        row: As read; it stays as it is.
        columns: Expected name -> name in the row; empty where the field shall not be looked at.
        turns: The same for ``role``, ``content`` and the roles.
        optional: Expected names of columns that may be missing.

    Raises:
        RowError: A column is missing.
    """
    if columns:
        taken = set(columns.values())
        renamed = {k: v for k, v in row.items() if k not in taken and columns.get(k) != ""}
        for expected, actual in columns.items():
            if actual in row:
                renamed[expected] = row[actual]
            elif actual and expected not in optional:
                raise RowError(f"no column `{actual}`", f"the row has: {', '.join(row):.200}")
        row = renamed
    if turns:
        row = {k: _rename_turns(v, turns) if k in _TURN_FIELDS else v for k, v in row.items()}
    return row


def _rename_turns(value: Any, turns: Mapping[TurnName, str]) -> Any:
    if isinstance(value, list):
        return [_rename_turns(turn, turns) for turn in value]
    if not isinstance(value, dict):
        return value
    role_key, content_key = turns.get("role", "role"), turns.get("content", "content")
    roles: dict[str, str] = {turns[name]: _ROLES.get(name, name) for name in turns}
    renamed = {key: item for key, item in value.items() if key not in (role_key, content_key)}
    if role_key in value:
        role = value[role_key]
        renamed["role"] = roles.get(role, role) if isinstance(role, str) else role
    if content_key in value:
        renamed["content"] = value[content_key]
    return renamed


def check_columns(columns: Mapping[str, str], rows: Sequence[tuple[Origin, Row]]) -> None:
    """Refuse a column that no row has: its name is misspelled."""
    for expected, actual in columns.items():
        if rows and actual and not any(actual in row for _, row in rows):
            origin, row = rows[0]
            raise DataError(
                f"{origin}: no column `{actual}`",
                hint=f"`columns` maps `{expected}` to it; the row has: {', '.join(row)}",
            )
