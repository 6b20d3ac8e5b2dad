"""Which format rows have, found by looking at them, with the evidence in words."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.data.formats.catalog import FORMATS, Format
from posttrain.data.records import Row
from posttrain.errors import DataError


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
    known = set(formats[name].fields or formats[name].optional)
    others = [other for other in others if not set(formats[other].fields) <= known]
    if others:
        seen = ", ".join(f"{o} ({formats[o].evidence})" for o in others)
        of += f"; they look like {seen} too: set `format` if that is meant"
    return name, of


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
            "choose a stage that learns from that"
        )
    example = "alpaca" if kind == "chat" else next(iter(formats))
    columns = ", ".join(f"{field}: NAME" for field in formats[example].fields)
    return (
        f"map the names with stages.sft.data.sources.0.columns='{{{columns}}}' (or the stage's own "
        "name; of `convert`: columns=...); "
        f"known {kind} formats: {', '.join(formats)}; see docs/formats.md"
    )
