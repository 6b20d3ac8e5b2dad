"""Which format rows have, found by looking at them, with the evidence in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from posttrain.data.formats.catalog import FORMATS, Format
from posttrain.data.formats.text import find_text_field
from posttrain.data.records import Row
from posttrain.errors import DataError

# What rows are for: stages of a recipe, and what `convert` can write of them.
_USES = {
    "chat": ("an `sft`", "messages"),
    "preference": ("a `dpo` or `reward`", "preference"),
    "text": ("a `pretrain` or `mlm`", "text"),
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
    found = FORMATS[wanted].kind if wanted in FORMATS else "text"
    if found != kind:
        known = ", ".join(name for name, known in FORMATS.items() if known.kind == kind)
        raise DataError(
            f"{place}: rows of the format {wanted} are no {kind} rows",
            hint=f"{_point(found)}; {kind} formats are: {known}",
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
        _refuse_mixed(rows, place, formats)
        raise DataError(_describe_unknown(rows, place, kind), hint=_advise(rows, kind, formats))
    name, *others = likely
    fitting = sum(map(formats[name].fits, rows))
    of = f"{fitting} of the first {len(rows)} rows have {formats[name].evidence}"
    # A format whose fields are all among those of the chosen one is only a vaguer guess.
    known = set(formats[name].fields or formats[name].optional)
    others = [other for other in others if not set(formats[other].fields) <= known]
    if others:
        seen = ", ".join(f"{o} ({formats[o].evidence})" for o in others)
        of += f"; they look like {seen} too: set `format` if that is meant"
    return name, of


def _point(kind: str) -> str:
    stages, to = _USES[kind]
    return f"such rows are for {stages} stage of a recipe, and `convert` writes them with to={to}"


def _refuse_mixed(rows: Sequence[Row], place: str, formats: dict[str, Format]) -> None:
    """Tell rows of several shapes by their names, where some of them would do.

    Raises:
        DataError: There are such.
    """
    if not any(known.fits(row) for known in formats.values() for row in rows):
        return
    # Those of the wanted kind first.
    shapes = Counter(_name_shape(row, {**formats, **FORMATS}) for row in rows)
    if len(shapes) > 1:
        seen = ", ".join(f"{count} {shape}" for shape, count in shapes.most_common())
        raise DataError(
            f"{place}: the first {len(rows)} rows are of several shapes: {seen}",
            hint="put the rows of each shape into a file of their own; a recipe takes several "
            "files as `sources`",
        )


def _name_shape(row: Row, formats: dict[str, Format]) -> str:
    for name, known in formats.items():
        if known.fits(row):
            return f"{name} ({known.evidence})"
    return f"with {', '.join(f'`{field}`' for field in row) or 'no field'}"


def _describe_unknown(rows: Sequence[Row], place: str, kind: str) -> str:
    seen = ", ".join(f"`{field}`" for field in rows[0])
    return f"{place}: no known {kind} format has the fields {seen}"


def _advise(rows: Sequence[Row], kind: str, formats: dict[str, Format]) -> str:
    """Say what could be done: another kind of stage, or other names of columns."""
    elsewhere = {
        name: known
        for name, known in FORMATS.items()
        if known.kind != kind and known.fits_all(rows)
    }
    if elsewhere:
        name, known = next(iter(elsewhere.items()))
        return (
            f"they look like {name} ({known.evidence}), whose rows become {known.kind} data: "
            f"{_point(known.kind)}"
        )
    if 2 * sum(find_text_field(row) is not None for row in rows) > len(rows):
        return f"they hold plain text: {_point('text')}"
    example = "alpaca" if kind == "chat" else next(iter(formats))
    columns = ", ".join(f"{field}: NAME" for field in formats[example].fields)
    return (
        f"map the names with columns='{{{columns}}}', in a recipe a key of the source; "
        f"known {kind} formats: {', '.join(formats)}; see docs/formats.md"
    )
