"""How numbers and text are written in every report, so that no two reports differ in it."""

from __future__ import annotations

import datetime
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

MINUS = "\u2212"


def format_percent(share: float) -> str:
    """Write a share of 1 as ``41.3 %``."""
    return f"{100 * share:.1f} %"


def format_interval(interval: Sequence[float]) -> str:
    """Write a 95 % interval of a share as ``38.0–44.6 %``."""
    return f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"


def format_points(difference: float) -> str:
    """Write a difference of two shares in points, always with its sign: ``+12.0``."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", MINUS)


def is_share(metric: str) -> bool:
    """Whether a metric counts what is right among all, as accuracy does."""
    return metric == "accuracy" or metric.endswith("_share")


def format_score(metric: str, value: float) -> str:
    """Write a score: shares as percent, anything else as a number."""
    return format_percent(value) if is_share(metric) else format_number(value)


def format_score_interval(metric: str, interval: Sequence[float] | None) -> str:
    """Write a score's 95 % interval; empty where there is none."""
    if interval is None:
        return ""
    if is_share(metric):
        return format_interval(interval)
    return f"{format_number(interval[0])}–{format_number(interval[1])}"


def format_change(metric: str, difference: float) -> str:
    """Write a difference with its sign and unit: ``+12.0 points``, ``−0.0213 bits per byte``."""
    if metric == "accuracy":
        return f"{format_points(difference)} points"
    return f"{_format_signed(difference)} {metric.replace('_', ' ')}"


def format_change_interval(metric: str, interval: Sequence[float] | None) -> str:
    """Write the 95 % interval of a difference: ``+8.1 to +15.9``; empty where there is none."""
    if interval is None:
        return ""
    sign = format_points if metric == "accuracy" else _format_signed
    return f"{sign(interval[0])} to {sign(interval[1])}"


def _format_signed(number: float) -> str:
    return f"{number:+.4f}".replace("-", MINUS)


def format_p_value(p_value: float | None) -> str:
    """Write ``= 0.03``, or ``< 0.0001`` below that, to follow the letter p."""
    if p_value is None:
        return "unknown"
    if p_value < 1e-4:
        return "< 0.0001"
    return f"= {p_value:.2g}"


def format_count(count: float) -> str:
    """Write a number of things with thousands apart: ``12,345``."""
    return f"{count:,.0f}"


def format_number(value: Any) -> str:
    """Write any value of a summary: four digits of a fraction, thousands apart, else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and 1e4 <= abs(value) < 1e15):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 and math.isfinite(value) else f"{value:.4g}"


def format_time(moment: Any) -> str:
    """Write a point in time from ISO 8601 text or from seconds since 1970, then in UTC."""
    if isinstance(moment, int | float):
        time = datetime.datetime.fromtimestamp(moment, tz=datetime.UTC)
    else:
        try:
            time = datetime.datetime.fromisoformat(str(moment))
        except ValueError:
            return str(moment)
    return time.strftime("%Y-%m-%d %H:%M %Z").strip()


def make_visible(text: str) -> str:
    """Replace what cannot be seen, or would steer a terminal, by a visible sign.

    A single space before or between letters stays, since it is seen there; other spaces become
    ``␣``. A newline becomes ``⏎`` followed by the newline itself.
    """
    signs = []
    for i, character in enumerate(text):
        if character == " ":
            before, after = text[i - 1 : i], text[i + 1 : i + 2]
            signs.append(" " if before != " " and after.strip() else "␣")
        else:
            signs.append("⏎\n" if character == "\n" else _show_control(character))
    return "".join(signs)


def to_one_line(text: str, most: int) -> str:
    """Fold ``text`` to one line of at most ``most`` characters, safe to print."""
    line = "".join(_show_control(c) for c in " ".join(text.split()))
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def _show_control(character: str) -> str:
    code = ord(character)
    if character == "\t":
        return "⇥"
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨U+{code:04X}⟩"
    return character
