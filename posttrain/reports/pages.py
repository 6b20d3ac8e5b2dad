"""Jinja templates of ``page/`` -> one self-contained HTML file each."""

from __future__ import annotations

import base64
import functools
import hashlib
import urllib.parse
from pathlib import Path
from typing import Any

import jinja2

from posttrain.files import write_text
from posttrain.logs import format_bytes, format_duration
from posttrain.reports import formatting

_FOLDER = Path(__file__).parent / "page"


def write_page(out: Path, template: str, values: dict[str, Any], *, script: str = "") -> Path:
    """Fill a template and write it atomically.

    Args:
        out: File to write.
        template: File name in ``page/``; values are escaped in it, whatever they hold.
        values: What the template shows.
        script: File name in ``page/`` of the page's own JavaScript; no other script can run.

    Returns:
        ``out``.

    Raises:
        PosttrainError: The place cannot be written.
    """
    code = _environment().get_template(script).render() if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if code else "'none'"
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    page = _environment().get_template(template)
    text = page.render(style=style, script=code, allowed_script=allowed, **values)
    # A lone surrogate, legal in JSON, has no UTF-8 form, and no HTML file may hold a NUL.
    write_text(out, text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd"))
    return out


def _quote(text: str) -> str:
    """Write any text as a part of an address; Jinja's own filter fails at half a surrogate pair."""
    return urllib.parse.quote(text.encode("utf-8", "replace"))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": formatting.format_percent,
        "interval": formatting.format_interval,
        "count": formatting.format_count,
        "number": formatting.format_number,
        "points": formatting.format_points,
        "p_value": formatting.format_p_value,
        "moment": formatting.format_time,
        "duration": format_duration,
        "size": format_bytes,
        "address": _quote,
    }
    return environment
