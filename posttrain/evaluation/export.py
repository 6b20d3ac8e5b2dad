"""Files of an evaluation: records as JSON lines and as a table, results as JSON and as Markdown."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from posttrain.files import write_json, write_jsonl, write_text

OUTPUTS = ("records.jsonl", "records.csv", "results.json", "report.md")
"""What a finished evaluation's folder holds."""
# A spreadsheet takes a cell that starts with one of these for a formula and would run it.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_LONGEST_REASON = 100


class EvaluationRecord(Protocol):
    """What is kept of one problem or document."""

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``records.jsonl``."""


def write_evaluation(
    folder: Path, results: Mapping[str, Any], records: Sequence[EvaluationRecord]
) -> None:
    """Write all files of an evaluation; ``results.json``, which marks it as finished, last.

    Args:
        folder: Made where it is absent.
        results: The summary.
        records: One per problem or document.
    """
    rows = [record.to_json() for record in records]
    write_jsonl(folder / "records.jsonl", rows)
    write_text(folder / "records.csv", build_table(rows))
    write_results(folder, results)


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``report.md`` and ``results.json``, as again when a comparison has been added."""
    write_text(folder / "report.md", _to_utf8(build_markdown(results)))
    write_json(folder / "results.json", results)


def build_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Build the records' CSV table.

    Prompts are given by their last turn, groups by a column each, other nested values as JSON.
    Cells that a spreadsheet would take for formulas get an apostrophe before them.

    Args:
        rows: Lines of ``records.jsonl``.

    Returns:
        CSV text with a header.
    """
    flat = [dict(_flatten(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    # Long texts stand last, where they do not push the figures out of sight.
    columns.sort(key=lambda name: ("prompt", "completion", "excerpt").count(name))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in flat)
    return _to_utf8(out.getvalue())


def _flatten(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name == "groups":
            yield from (
                (f"group {key}" if key in row else key, part) for key, part in value.items()
            )
        elif name == "prompt":
            yield name, value[-1].get("content") if value else ""
        else:
            yield name, value


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value


def build_markdown(results: Mapping[str, Any]) -> str:
    """Build the short report of one evaluation.

    Args:
        results: The contents of ``results.json``.

    Returns:
        Markdown: the score with its interval, every other figure, mistakes, sub-scores, and the
        comparison where there is one.
    """
    lines = [f"# {results['name']}", "", _headline(results), ""]
    if template := results.get("template"):
        lines += [describe_template(template), ""]
    lines += build_markdown_table(("figure", "value"), _figures(results))
    if passing := results.get("pass_at_k"):
        sampled = [
            (k, _percent_of(passing[k]), _percent_of(results["majority"][k]), str(one["problems"]))
            for k, one in passing.items()
        ]
        lines += ["", "## Several samples", ""]
        lines += build_markdown_table(("k", "pass@k", "majority of k", "problems"), sampled)
    if errors := results.get("errors"):
        lines += ["", "## Mistakes", ""]
        lines += build_markdown_table(
            ("class", "problems"), [(k, str(v)) for k, v in errors.items()]
        )
    for name, scores in (results.get("groups") or {}).items():
        rows = [
            (value, f"{one['correct']} of {one.get('scored', one['problems'])}", _percent(one))
            for value, one in scores.items()
        ]
        lines += ["", f"## By {name}", "", *build_markdown_table((name, "right", "accuracy"), rows)]
    if comparison := results.get("comparison"):
        lines += ["", f"## Against {comparison['other']}", ""]
        lines += build_markdown_table(
            ("figure", "value"), [(k, _show(v)) for k, v in comparison.items()]
        )
    if settings := list(_list_settings(results.get("settings") or {})):
        lines += ["", "## Settings", "", *build_markdown_table(("setting", "value"), settings)]
    return "\n".join(lines) + "\n"


def _headline(results: Mapping[str, Any]) -> str:
    # The earliest results had no other metric and did not say so.
    metric = results.get("metric", "accuracy")
    if metric == "accuracy":
        right = f"{results['correct']} of {results.get('scored', results['problems'])} right"
        right += f", {unscored}" if (unscored := describe_unscored(results)) else ""
        return f"**Accuracy {_percent(results)}** ({right}; in brackets the 95 % interval)"
    interval = results.get("interval")
    shown = f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else ""
    return f"**{metric.capitalize()} {results['value']:.4g}**{shown}"


def describe_unscored(results: Mapping[str, Any]) -> str:
    """Say how many answers have no verdict, and why most of them; empty where all have one."""
    if not results.get("unscored"):
        return ""
    errors = results.get("errors") or {}
    reasons = {name: errors[name] for name in ("grader_timeout", "grader_error") if name in errors}
    reasons |= results.get("failures") or {}
    most = max(reasons, key=lambda reason: int(reasons[reason]), default="")
    why = f" (most often: {textwrap.shorten(most, _LONGEST_REASON)})" if most else ""
    return f"{results['unscored']:,} unscored{why}"


def describe_template(template: Mapping[str, Any]) -> str:
    """Say whether a model was asked in the form that it was trained in.

    Args:
        template: ``used`` and ``trained``, digests of chat templates or None, and ``same``.
    """
    used, trained = (template[side] and template[side][:12] for side in ("used", "trained"))
    if template["same"]:
        return f"Chat template: {used}, the one that the model was trained with."
    if template["same"] is None:
        return f"Chat template: {used or 'none'}; whether it was trained with it is unknown."
    return (
        f"**Chat template: {used or 'none'}, and the model was trained with {trained}: the score "
        "may be lower for that alone.**"
    )


def _figures(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    apart = (
        "errors",
        "groups",
        "comparison",
        "name",
        "pass_at_k",
        "majority",
        "template",
        "settings",
    )
    return [(name, _show(value)) for name, value in results.items() if name not in apart]


def _list_settings(settings: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    """Yield every setting that says something; long lists by their length."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _list_settings(value, f"{head}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield f"{head}{name}", f"{len(value)} entries"
        elif value not in (None, [], ""):
            yield f"{head}{name}", json.dumps(value, ensure_ascii=False)


def _percent(score: Mapping[str, Any]) -> str:
    return _percent_of({**score, "value": score["accuracy"]})


def _percent_of(score: Mapping[str, Any]) -> str:
    if score["interval"] is None:
        return "unknown: nothing could be scored"
    low, high = score["interval"]
    return f"{score['value']:.1%} ({low:.1%} to {high:.1%})"


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return " to ".join(map(_show, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_show(item)}" for name, item in value.items())
    return str(value)


def build_markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Build the lines of a Markdown table; line breaks and ``|`` in cells are made harmless."""
    shown = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(_escape, row)) + " |" for row in shown]


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _to_utf8(text: str) -> str:
    """Replace halves of surrogate pairs, which broken rows hold and no UTF-8 file can."""
    return text.encode("utf-8", "replace").decode("utf-8")
