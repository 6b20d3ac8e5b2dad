"""The report of a data set: where every row went, and what the examples are like."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from posttrain.config.data import DataConfig
from posttrain.data.choose import DROPPED, TEST, Choice
from posttrain.data.collect import AllRows
from posttrain.data.encoders import kind_of
from posttrain.data.evaluations import Evaluations
from posttrain.data.statistics import describe_examples
from posttrain.data.store import ExampleStore, Mixture

Array = np.ndarray[Any, Any]
_PAIRS_SHOWN = 50


def describe_data_set(
    config: DataConfig,
    rows: AllRows,
    choice: Choice,
    stores: tuple[ExampleStore, ExampleStore],
    mixture: Mixture | None,
    evaluations: Evaluations,
) -> dict[str, Any]:
    """Describe a data set.

    Args:
        config: Its settings.
        rows: What was read.
        choice: What became of it.
        stores: Training and validation examples.
        mixture: How often sources are seen.
        evaluations: What rows were searched for.

    Returns:
        The entries of ``report.json``; see ``docs/data.md``.
    """
    train, validation = stores
    dropped = Counter({"repeated": int(np.count_nonzero(choice.repeats >= 0))})
    dropped["in an evaluation set"] = len(choice.contaminated)
    used = len(rows) - choice.count(TEST) - choice.count(DROPPED)
    accounted = used + choice.count(TEST) + rows.rejects.total() + dropped.total()
    assert accounted == rows.read, f"{rows.read} rows read, {accounted} accounted for"
    return {
        "kind": kind_of(config),
        "sources": _describe_parts(rows),
        "rows_read": rows.read,
        "rows_used": used,
        "examples": {"train": len(train), "validation": len(validation)},
        "test_rows": choice.count(TEST),
        "rejects": dict((rows.rejects + dropped).most_common()),
        "dedup": _describe_dedup(config, choice),
        "contamination": _describe_contamination(config, rows, choice, evaluations),
        "split": config.split.model_dump(mode="json"),
        "mixture": _describe_mixture(config, mixture),
        "overlong": {name: rows.tallies[name] for name in ("truncated", "split", "lost parts")},
        "retokenized": rows.tallies["retokenized"],
        "joined_turns": rows.tallies["joined"],
        "audit": [asdict(check) for check in rows.audit],
        **rows.counts.report(),
        **describe_examples(train, validation),
    }


def _describe_parts(rows: AllRows) -> list[dict[str, Any]]:
    return [
        {
            **part.report,
            "rows": rows.read_of_part[part.number],
            "rejects": dict(rows.rejects_of_part.get(part.number, Counter()).most_common()),
        }
        for part in rows.parts
    ]


def _describe_dedup(config: DataConfig, choice: Choice) -> dict[str, Any] | None:
    if config.dedup is None:
        return None
    repeats = choice.repeats[choice.repeats >= 0]
    return {
        **config.dedup.model_dump(mode="json"),
        "repeated_rows": len(repeats),
        "groups": len(np.unique(repeats)),
    }


def _describe_contamination(
    config: DataConfig, rows: AllRows, choice: Choice, evaluations: Evaluations
) -> dict[str, Any] | None:
    settings = config.contamination
    if settings is None or (evaluations.index is None and settings.action == "report"):
        return None
    found = {r: m for r, m in sorted(rows.columns.matches.items()) if choice.repeats[r] < 0}
    pairs = [
        {"training": str(rows.origin(row)), **asdict(match)}
        for row, match in list(found.items())[:_PAIRS_SHOWN]
    ]
    return {
        "action": settings.action,
        "against": evaluations.files,
        "evaluation_problems": evaluations.problems,
        "unread_problems": evaluations.unread,
        "training_rows": int(np.count_nonzero((rows.sources >= 0) & (choice.repeats < 0))),
        "matched_rows": len(found),
        "matches": dict(Counter(match.what for match in found.values()).most_common()),
        "pairs": pairs,
    }


def _describe_mixture(config: DataConfig, mixture: Mixture | None) -> list[dict[str, Any]] | None:
    if mixture is None:
        return None
    return [
        {
            "path": str(source.path),
            "examples": size,
            "draws": draws,
            "passes": draws / size if size else 0.0,
        }
        for source, size, draws in zip(config.sources, mixture.sizes, mixture.draws, strict=True)
    ]
