"""The data of a training stage as a page shows it: where every row went, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from posttrain.data.audit import AuditCheck
from posttrain.files import load_json
from posttrain.reports import figures, formatting
from posttrain.reports.folders import Row, StageFolder
from posttrain.reports.pages import write_page
from posttrain.reports.rejected import RejectedRow, collect_by_reason
from posttrain.reports.terminal import build_table, to_text

Pairs = list[tuple[str, str]]
REPORT_NAME = "report.html"
_SHOWN_REJECTS = 3
_PART = "part too long"
_MOST_TURNS = 60
_EMPTY: Row = {
    "sources": [],
    "audit": [],
    "longest": [],
    "contamination": None,
    "mixture": None,
    "dedup": None,
    "overlong": {},
    "encoder": None,
    "packing": None,
}


@dataclass(frozen=True)
class Share:
    """A part of a whole: its name, its size, and its share."""

    name: str
    count: int
    share: float


@dataclass(frozen=True)
class DataView:
    """The data of one training stage, ready to show."""

    stage: str
    report: Row
    accounts: list[tuple[str, int]]
    """What became of the rows, and how many."""
    balanced: bool
    """Whether they add up to the rows read."""
    facts: Pairs
    """What was done with the rows: examples, split, duplicates, packing."""
    rejects: list[tuple[str, int, list[RejectedRow]]]
    """Reason, rows (or parts of rows), and the first of them."""
    contamination: Pairs
    lengths: Pairs
    plots: list[Markup]
    shares: list[tuple[str, str, list[Share]]]
    """Title, note and parts: roles, tools, languages, loss weights."""


def build_data_view(stage: StageFolder) -> DataView | None:
    """Prepare the data report of a stage; None where it has none."""
    return _build_view(stage.data_report, stage.name, stage.path / "data")


def build_data_report(folder: Path, name: str = "") -> Path:
    """Write the report of a prepared data set as a page of its own.

    Args:
        folder: With ``report.json`` and ``rejects.jsonl``.
        name: What to call it.

    Returns:
        ``<folder>/report.html``.

    Raises:
        PosttrainError: The folder cannot be written.
    """
    report = load_json(folder / "report.json")
    view = _build_view(report, name, folder)
    return write_page(folder / REPORT_NAME, "data_page.html.jinja", {"view": view, "name": name})


def _build_view(report: Row, name: str, folder: Path) -> DataView | None:
    if not report:
        return None
    accounts = _list_accounts(report)
    lengths = report.get("length_tokens") or {}
    return DataView(
        name,
        {**_EMPTY, **report},
        accounts,
        sum(count for _, count in accounts) == report.get("rows_read"),
        list(_list_facts(report)),
        _list_rejects(report, folder),
        _describe_contamination(report.get("contamination")),
        [(key, formatting.format_count(value)) for key, value in lengths.items()],
        list(_draw_plots(report)),
        list(_list_shares(report)),
    )


def _list_accounts(report: Row) -> list[tuple[str, int]]:
    if "rows_used" in report:
        accounts = [("Used for examples", int(report["rows_used"]))]
    else:
        accounts = [(_EXAMPLES.get(k, k), int(n)) for k, n in _examples(report).items()]
    accounts.append(("Set aside for test", int(report.get("test_rows", 0))))
    rejects = report.get("rejects") or {}
    return accounts + [(f"Rejected: {reason}", int(count)) for reason, count in rejects.items()]


_EXAMPLES = {"train": "Training examples", "validation": "Validation examples"}


def _examples(report: Row) -> Row:
    return dict(report.get("examples") or {})


def _list_facts(report: Row) -> Iterator[tuple[str, str]]:
    count = formatting.format_count
    if "rows_used" in report:
        for key, number in _examples(report).items():
            yield _EXAMPLES.get(key, key), count(number)
    if tokens := report.get("tokens"):
        yield "Tokens", count(tokens)
        trained = report.get("trained_tokens") or 0
        share = formatting.format_percent(trained / tokens)
        yield "Supervised", f"{count(trained)} ({share})" if trained else "none"
    if packing := report.get("packing"):
        yield (
            "Packing",
            (
                f"batches of {count(packing['batch_tokens'])} tokens are "
                f"{formatting.format_percent(packing['fill'])} full"
            ),
        )
    if (dedup := report.get("dedup")) and "repeated_rows" in dedup:
        yield "Duplicates", f"{count(dedup['repeated_rows'])} dropped ({dedup.get('method')})"
    if split := report.get("split"):
        yield "Split", _describe_split(split)
    overlong = report.get("overlong") or {}
    shown = [f"{count(n)} {name}" for key, name in _CUT.items() if (n := overlong.get(key))]
    if shown:
        yield "Too long", ", ".join(shown)
    if joined := report.get("joined_turns"):
        yield "Joined turns", f"in {count(joined)} rows"
    if retokenized := report.get("retokenized"):
        yield "Other ids at a turn's start if encoded whole", count(retokenized)
    if encoder := report.get("encoder"):
        yield "Encoder", f"{encoder.get('name')}: {encoder.get('reason')}"


_CUT = {
    "truncated": "rows shortened",
    "split": "rows parted",
    "lost parts": "parts of them left out",
}


def _describe_split(split: Row) -> str:
    test, validation = split.get("test") or 0, split.get("validation") or 0
    if not test + validation:
        return "all rows are trained on"
    parts = (1 - test - validation, validation, test)
    text = " : ".join(f"{100 * part:g}" for part in (round(part, 6) for part in parts))
    ways = [f"{k.replace('_', ' ')} {split[k]}" for k in _SPLIT_KEYS if split.get(k)]
    return ", ".join([f"{text} %, seed {split.get('seed', 0)}", *ways])


_SPLIT_KEYS = ("group_by", "stratify_by")


def _list_rejects(report: Row, folder: Path) -> list[tuple[str, int, list[RejectedRow]]]:
    reasons = dict(report.get("rejects") or {})
    if parts := (report.get("overlong") or {}).get("lost parts"):
        reasons[_PART] = parts  # of rows that are used, so no part of the rows' sum
    found = collect_by_reason(folder / "rejects.jsonl", _SHOWN_REJECTS) if reasons else {}
    return [(reason, int(count), found.get(reason, [])) for reason, count in reasons.items()]


def _describe_contamination(result: Any) -> Pairs:
    if not result:
        return []
    actions = {
        "drop": "dropped from training",
        "report": "kept, only reported",
        "error": "would have stopped the run",
    }
    action = str(result.get("action", ""))
    number = formatting.format_number
    matches = [f"{count} by {what}" for what, count in (result.get("matches") or {}).items()]
    matched = result.get("matched_rows", 0)
    pairs = [
        ("Evaluation problems", number(result.get("evaluation_problems", 0))),
        ("Training rows searched", number(result.get("training_rows", 0))),
        ("Rows found", ", ".join(matches) or number(matched)),
    ]
    if against := result.get("against"):
        pairs.insert(0, ("Evaluation sets", ", ".join(against)))
    return [*pairs, ("They were", actions.get(action, action))] if matched else pairs


def _draw_plots(report: Row) -> Iterator[Markup]:
    lengths = report.get("length_tokens") or {}
    histogram = report.get("length_histogram") or {}
    if histogram.get("counts") and histogram.get("edges"):
        names = {"p50": "median", "p99": "99 % are shorter"}
        last = histogram["edges"][-1]
        marks = {t: lengths[k] for k, t in names.items() if lengths.get(k, last + 1) <= last}
        counts, edges = histogram["counts"], histogram["edges"]
        yield figures.draw_histogram("Length of the examples", counts, edges, marks)
    supervised = (report.get("supervised") or {}).get("histogram") or {}
    if supervised.get("counts") and report.get("trained_tokens"):
        edges = [100 * edge for edge in supervised["edges"]]
        title, axis = "Supervised share of each example", "supervised tokens, %"
        yield figures.draw_histogram(title, supervised["counts"], edges, {}, axis=axis, wide=False)
    turns = {int(key): count for key, count in (report.get("turns") or {}).items()}
    if turns:
        most = min(max(turns), _MOST_TURNS)
        places = range(min(*turns, most), most + 1)
        counts = [turns.get(turn, 0) for turn in places]
        counts[-1] += sum(count for turn, count in turns.items() if turn > most)
        edges = [place - 0.5 for place in (*places, most + 1)]
        more = f" ({most} and more in the last bar)" if max(turns) > most else ""
        axis, height = f"messages{more}", "rows"
        yield figures.draw_histogram(
            "Messages of a row", counts, edges, {}, axis=axis, height=height, wide=False
        )


def _list_shares(report: Row) -> Iterator[tuple[str, str, list[Share]]]:
    if roles := report.get("roles"):
        yield "Messages by role", "", _shares(roles, sum(roles.values()))
    rows = int(report.get("rows_used") or 0)
    if (tools := report.get("tools")) and rows:
        kinds = {name: tools.get(key, 0) for key, name in _KINDS.items()}
        yield "Rows that have", "", _shares({k: n for k, n in kinds.items() if n}, rows)
        called = tools.get("most_called") or {}
        more = max(0, tools.get("distinct_called", 0) - len(called))
        note = f"and {formatting.format_count(more)} other tools" if more else ""
        yield "Calls by tool", note, _shares(called, tools.get("calls", 0))
    if languages := report.get("languages"):
        sampled = int(languages.get("sampled", 0))
        note = f"by script and small words, of {formatting.format_count(sampled)} rows"
        yield "Language of the prompts", note, _shares(languages.get("counts") or {}, sampled)
    weights = (report.get("supervised") or {}).get("weights") or {}
    if set(weights) - {"0", "1"}:
        yield "Tokens by loss weight", "", _shares(weights, report.get("tokens", 0))


_KINDS = {
    "with_system": "a system turn",
    "with_tools": "tools",
    "with_calls": "tool calls",
    "with_reasoning": "reasoning",
}


def _shares(counts: Row, whole: int) -> list[Share]:
    return [Share(str(k), int(n), min(1.0, n / whole)) for k, n in counts.items() if whole]


def render_audit(checks: Sequence[AuditCheck]) -> str:
    """Write the mask audit as a table for the terminal."""
    table = build_table("check", "asked", "failed", "first failures")
    for check in checks:
        asked = formatting.format_count(check.checked) if check.checked else "none to ask"
        failed = formatting.format_count(check.failures)
        table.add_row(check.name, asked, failed, ", ".join(check.examples))
    return to_text(table)
