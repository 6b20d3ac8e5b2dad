"""Quality of multiple-choice items: offline rules for each, and the InceptBench judge beside them.

The two never meet in one number: the rules have a share of items that pass all of them and no
score, the judge has scores of its own under a key of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.config.evaluation import ItemsTask
from posttrain.config.items import InceptBenchConfig, ItemChecks
from posttrain.data.item_requests import write_request
from posttrain.data.readers import read_rows
from posttrain.errors import DataError, PosttrainError
from posttrain.evaluation.export import build_table, write_results
from posttrain.evaluation.inceptbench import KEY_VARIABLE, find_judge, judge_items
from posttrain.evaluation.judgements import summarize_item, summarize_judgements
from posttrain.evaluation.statistics import wilson_interval
from posttrain.extras import require_extra
from posttrain.files import digest_json, write_jsonl, write_text
from posttrain.grading.items import (
    RULE_NAMES,
    SOURCE,
    Content,
    Expectations,
    Finding,
    check_item,
    find_duplicates,
    parse_content,
    parse_grade,
    read_content,
)
from posttrain.items import read_item_row
from posttrain.logs import say


@dataclass(frozen=True)
class ItemRow:
    """One item to judge."""

    id: str
    request: dict[str, Any]
    """In InceptBench's shape; may be empty."""
    content: Content
    problem: str
    """What is wrong with its shape; empty where nothing is."""
    text: str | None
    """What the model wrote, where it is known."""


def load_items(path: Path, *, limit: int | None = None) -> list[ItemRow]:
    """Read items: rows of ``generate-items``, InceptBench requests, or ``mcq`` sample rows.

    Args:
        path: JSONL or JSON.
        limit: Take only the first rows.

    Raises:
        DataError: A row holds no item, or two rows have one id; with file and line.
    """
    items: dict[str, ItemRow] = {}
    for origin, row in _read_item_rows(path):
        if limit is not None and len(items) == limit:
            break
        name = str(row.get("id") or f"{path.name}:{origin.line}")
        if name in items:
            raise DataError(f"{origin}: a second item with the id `{name}`", hint="rename one")
        if "stem" in row:
            request, content, problem = _read_sample_row(row)
        elif "content" in row or "text" in row:
            request = row.get("request") or {}
            content, problem = _read_written(row)
        else:
            raise DataError(
                f"{origin}: neither `content` nor `text`, so no item to judge",
                hint="give rows of generate-items, or of sample-data mcq",
            )
        if not isinstance(request, Mapping):
            raise DataError(f"{origin}: `request` is no object")
        text = row.get("text")
        items[name] = ItemRow(
            name, dict(request), content, problem, text if isinstance(text, str) else None
        )
    return list(items.values())


def _read_item_rows(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    for origin, row in read_rows(path):
        if isinstance(row.get("generated_content"), list):  # a whole request for InceptBench
            for item in row["generated_content"]:
                if not isinstance(item, dict):
                    raise DataError(f"{origin}: an item of `generated_content` is no object")
                yield origin, item
        else:
            yield origin, row


def _read_sample_row(row: Mapping[str, Any]) -> tuple[dict[str, Any], Content, str]:
    content, problem = read_content(row)
    try:
        return write_request(read_item_row(row)[0]), content, problem
    except ValueError as error:
        return {"grade": str(row.get("grade", ""))}, content, problem or str(error)


def _read_written(row: Mapping[str, Any]) -> tuple[Content, str]:
    """The content of a row, read from the model's own text where there is one."""
    stimulus = ""
    if isinstance(row.get("content"), Mapping):
        content, problem = read_content(row["content"])
        stimulus = content["stimulus"]
    if isinstance(row.get("text"), str):
        content, problem = parse_content(row["text"])
        content["stimulus"] = content["stimulus"] or stimulus
    elif row.get("content") is None:
        content, problem = parse_content("")
        problem = str(row.get("error") or "no item was written")
    elif not isinstance(row["content"], Mapping):
        content, problem = read_content(row["content"])
    return content, problem


def evaluate_items(
    checks: ItemChecks,
    path: Path,
    folder: Path,
    *,
    limit: int | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Judge a file of items.

    Args:
        checks: How.
        path: Items, as ``load_items`` reads them.
        folder: For the files of an evaluation and the judge's ``inceptbench.jsonl``.
        limit: Take only the first rows.
        about: What else the results shall hold, before all else.

    Returns:
        The contents of ``results.json``: the rules' counts and ``all_rules_pass_share`` with its
        95 % Wilson interval, and under ``inceptbench`` what the judge said, or None without a key.

    Raises:
        DataError: The file holds no items.
        PosttrainError: The judge left more items without a score than ``max_failure_ratio``; all
            results are written by then.
    """
    items = load_items(path, limit=limit)
    findings = _apply_rules(items, checks)
    failing = [[f.rule for f in found if f.passed is False] for found in findings]
    judged = _ask_judge(items, checks.inceptbench, folder)
    records = []
    for item, found, failed in zip(items, findings, failing, strict=True):
        record: dict[str, Any] = {
            "id": item.id,
            "request": item.request,
            "content": item.content,
            # Under the names of every other evaluation, so that reports can show them.
            "prompt": [{"role": "user", "content": json.dumps(item.request, ensure_ascii=False)}],
            "completion": item.text or json.dumps(item.content, ensure_ascii=False),
            "source": SOURCE,
            "rules": {f.rule: {"passed": f.passed, "reason": f.reason} for f in found},
            # Two models' items for the same requests are compared in pairs by these two.
            "digest": digest_json(item.request),
            "correct": not failed,
            "error": failed[0] if failed else None,
        }
        if judged and item.id in judged["items"]:
            record["inceptbench"] = judged["items"][item.id]
        records.append(record)
    passing = sum(not failed for failed in failing)
    results = {
        "task": "items",
        "kind": "items",
        "name": "items",
        "data": str(path),
        **(about or {}),
        "metric": "all_rules_pass_share",
        "value": passing / len(items),
        "interval": list(wilson_interval(passing, len(items))),
        "higher_is_better": True,
        "problems": len(items),
        "correct": passing,
        "source": SOURCE,
        "all_rules_pass_share": passing / len(items),
        "rules": _count_verdicts(findings),
        "errors": dict(Counter(failed[0] for failed in failing if failed).most_common()),
        "inceptbench": judged["summary"] if judged else None,
    }
    write_jsonl(folder / "records.jsonl", records)
    write_text(folder / "records.csv", build_table(records))
    write_results(folder, results)
    if judged and checks.inceptbench:
        _check_failures(judged["summary"], checks.inceptbench, folder)
    return results


def check_items(task: ItemsTask) -> None:
    """Look at the items, the key and the packages of a task before anything is begun.

    Raises:
        DataError: The file holds no items.
        ConfigError: The judge's key is set, and its address is not.
        MissingExtraError: The key is set, and httpx is not installed.
    """
    assert task.data.path is not None
    load_items(task.data.path, limit=task.data.limit)
    if asks_judge(task):
        require_extra("httpx", "inceptbench")


def asks_judge(checks: ItemChecks) -> bool:
    """Whether InceptBench is asked, with the environment as it is."""
    return checks.inceptbench is not None and find_judge() is not None


def describe_items(results: Mapping[str, Any]) -> str:
    """Say the results in a few words, for the log."""
    low, high = results["interval"]
    said = (
        f"{results['correct']} of {results['problems']} items pass all offline rules "
        f"({results['value']:.1%}, 95 % interval {low:.1%} to {high:.1%})"
    )
    judged = results["inceptbench"]
    if judged is None:
        return said
    mean = judged["mean_score"]
    shown = "no mean score" if mean is None else f"mean score {mean:.3f}"
    return f"{said}; inceptbench: {shown} over {judged['scored']} of {judged['items']} items"


def _apply_rules(items: Sequence[ItemRow], checks: ItemChecks) -> list[list[Finding]]:
    copies = find_duplicates(
        [item.content for item in items], similarity=checks.duplicate_similarity
    )
    default = None if checks.grade is None else (checks.grade, checks.grade)
    found = []
    for item, (unique, reason) in zip(items, copies, strict=True):
        grades = parse_grade(str(item.request.get("grade", ""))) or default
        english = str(item.request.get("locale", "en")).lower().startswith("en")
        expected = Expectations(options=checks.options, grades=grades, english=english)
        rules = check_item(item.content, expected, format_problem=item.problem)
        found.append([*rules, Finding(RULE_NAMES[-1], unique, reason)])
    return found


def _count_verdicts(findings: Sequence[Sequence[Finding]]) -> dict[str, dict[str, int]]:
    names = {True: "passed", False: "failed", None: "not_applicable"}
    counts = {rule: dict.fromkeys(names.values(), 0) for rule in RULE_NAMES}
    for found in findings:
        for finding in found:
            counts[finding.rule][names[finding.passed]] += 1
    return counts


def _ask_judge(
    items: Sequence[ItemRow], settings: InceptBenchConfig | None, folder: Path
) -> dict[str, Any] | None:
    """Ask InceptBench about every item that can be sent; None where it is not to be asked."""
    if settings is None:
        return None
    judge = find_judge()
    if judge is None:
        say(f"inceptbench: {KEY_VARIABLE} is not set, so items are checked by offline rules alone")
        return None
    sent = [
        {
            "id": item.id,
            "request": {"type": "mcq", **item.request},
            "content": {name: value for name, value in item.content.items() if value},
        }
        for item in items
        if item.content["question"] and item.content["answer_options"] and item.content["answer"]
    ]
    if not sent:
        say("inceptbench: no item is complete enough to be sent")
        write_text(folder / "inceptbench.jsonl", "")
        return None
    judgements = judge_items(sent, judge, settings, folder)
    summary = {**summarize_judgements(judgements), "not_sent": len(items) - len(sent)}
    by_item: dict[str, list[Any]] = {}
    for judgement in judgements:
        by_item.setdefault(judgement.id, []).append(judgement)
    return {
        "summary": summary,
        "items": {name: summarize_item(found) for name, found in by_item.items()},
    }


def _check_failures(summary: Mapping[str, Any], settings: InceptBenchConfig, folder: Path) -> None:
    ratio = summary["unscored"] / summary["items"]
    if ratio > settings.max_failure_ratio:
        raise PosttrainError(
            f"inceptbench: {summary['unscored']} of {summary['items']} items have no score "
            f"({ratio:.0%}, max_failure_ratio is {settings.max_failure_ratio:.0%})",
            hint=f"run again to ask for these alone; reasons are in {folder / 'inceptbench.jsonl'}",
        )
