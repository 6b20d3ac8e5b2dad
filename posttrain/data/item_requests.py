"""Requests for multiple-choice items: rows in InceptBench's shape or of the ``mcq`` sample data."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.data.readers import read_rows
from posttrain.errors import DataError
from posttrain.grading.items import parse_grade
from posttrain.items import ItemRequest, read_item_row

_TEXTS = (
    "curriculum", "grade", "subject", "type", "difficulty", "locale", "instructions", "stimulus"
)  # fmt: skip
_SKILLS = {"substandard_id": "skill_id", "substandard_description": "skill_text"}
_DIFFICULTIES = ("easy", "medium", "hard")


def load_requests(path: Path, *, limit: int | None = None) -> Iterator[tuple[str, ItemRequest]]:
    """Read what items shall be about.

    Args:
        path: JSON, JSONL or CSV; a row is a request, has one under ``request``, or is an ``mcq``
            sample row.
        limit: Take only the first rows.

    Yields:
        The row's ``id`` (``file name:line`` where it has none) and the request.

    Raises:
        DataError: A row is no request, or two have one id; with file and line.
    """
    seen: set[str] = set()
    for origin, row in read_rows(path):
        if limit is not None and len(seen) == limit:
            break
        name = str(row.get("id") or f"{path.name}:{origin.line}")
        if name in seen:
            raise DataError(f"{origin}: a second request with the id `{name}`", hint="rename one")
        seen.add(name)
        try:
            yield name, read_item_row(row)[0] if "stem" in row else read_request(row)
        except ValueError as error:
            raise DataError(f"{origin}: {error}", hint="mend this row, then run again") from None


def read_request(row: Mapping[str, Any]) -> ItemRequest:
    """Read one request in InceptBench's shape.

    Args:
        row: The fields of ``request``, or an object that has them there; a passage is ``stimulus``
            in either place. Other keys beside ``request`` are left alone.

    Raises:
        ValueError: A field is unknown, missing or of another kind.
    """
    fields: dict[str, Any] = {name: value for name, value in row.items() if name != "id"}
    if "request" in row:
        if not isinstance(row["request"], Mapping):
            raise ValueError("`request` is no object")
        beside = {"stimulus": row["stimulus"]} if "stimulus" in row else {}
        fields = {**row["request"], **beside}
    skills = fields.pop("skills", None) or {}
    if not isinstance(skills, Mapping):
        raise ValueError("`skills` is no object")
    _check_names(fields, _TEXTS)
    _check_names(skills, tuple(_SKILLS))
    values = {**fields, **{_SKILLS[name]: value for name, value in skills.items()}}
    values = {name: value for name, value in values.items() if value not in (None, "")}
    if isinstance(values.get("grade"), int) and not isinstance(values["grade"], bool):
        values["grade"] = str(values["grade"])
    if wrong := [name for name, value in values.items() if not isinstance(value, str)]:
        raise ValueError(f"`{wrong[0]}` is no text")
    if "grade" not in values:
        raise ValueError("`grade` is missing")
    if parse_grade(values["grade"]) is None:
        raise ValueError(f"`grade` is K or 1 to 12, not {values['grade']!r}")
    if values.get("difficulty", "medium") not in _DIFFICULTIES:
        raise ValueError(f"`difficulty` is easy, medium or hard, not {values['difficulty']!r}")
    return ItemRequest(**values)


def _check_names(fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown field `{name}` of a request; {hint}")


def write_request(request: ItemRequest) -> dict[str, Any]:
    """Write a request in InceptBench's shape; the reverse of ``read_request``.

    Returns:
        Its ``request``, without what is empty. The passage is no part of it: it belongs to the
        content.
    """
    skills = {name: getattr(request, field) for name, field in _SKILLS.items()}
    fields = {name: getattr(request, name) for name in _TEXTS if name != "stimulus"}
    fields["skills"] = {name: text for name, text in skills.items() if text}
    return {name: value for name, value in fields.items() if value}
