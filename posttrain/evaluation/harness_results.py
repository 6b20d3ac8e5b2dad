"""What lm-evaluation-harness has found, as scores with intervals and a record for each problem."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from posttrain.errors import DataError
from posttrain.evaluation.statistics import wilson_interval

INVALID = "[invalid]"
"""What the harness's regular expressions give where they find nothing."""
_Z95 = 1.959963984540054
# Scores of one problem that are a verdict, 0 or 1: their mean is a share of right answers.
_VERDICTS = re.compile(r"(^|_)acc(_|$)|^exact_match$|^em$|^pass@1$")


@dataclass(frozen=True)
class HarnessRecord:
    """One problem of a task with the model's answer."""

    id: str
    """``task:number`` of the problem."""
    digest: str
    """sha256 of the problem."""
    prompt: list[dict[str, Any]]
    """One turn with all that the model was given."""
    reference: str
    """The right answer; of multiple choice the number of the option, from 0."""
    completion: str
    """What was written; of multiple choice the text of the option found most likely."""
    answer: str | None
    """What the task's filter has made of it; of multiple choice the number of the option."""
    scores: dict[str, Any]
    """Every score of the task for this problem, as ``metric,filter``."""
    score: float | None
    """The main one, by which two models are compared; None where less is better, or it is of the
    whole task alone."""
    correct: bool | None = None
    """None where scores are no verdicts."""
    strict: bool | None = None
    """Verdict of the task's filter named strict, such as `strict-match` of gsm8k; None without."""
    sample: int = 0
    options: list[dict[str, Any]] = field(default_factory=list)
    """Of multiple choice: number as `letter`, text and log-probability of each option."""

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``records.jsonl``; what this kind of task lacks is left out."""
        line = asdict(self)
        if self.correct is None:
            del line["correct"], line["strict"]
        else:
            missing = self.answer in ("", INVALID)
            error = None if self.correct else "no_answer" if missing else "wrong"
            line |= {"parse": "harness", "error": error}
            del line["score"]
        if not self.options:
            del line["options"]
        return line


def read_scores(name: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the scores of a task or group.

    Args:
        name: Of the task or group.
        found: Results of ``lm_eval.evaluate``.

    Returns:
        ``metric,filter`` -> ``value``, ``stderr``, ``interval`` (95 %, normal; None where the
        harness has no standard error) and ``higher_is_better``.
    """
    measured = found["results"][name]
    better = found["higher_is_better"].get(name) or {}
    scores = {}
    for key, value in measured.items():
        metric, comma, chosen = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        stderr = measured.get(f"{metric}_stderr,{chosen}")
        stderr = float(stderr) if _is_number(stderr) else None
        bounds = None if stderr is None else [value - _Z95 * stderr, value + _Z95 * stderr]
        if bounds and _VERDICTS.search(metric):  # a share, beyond whose ends nothing is
            bounds = [max(0.0, bounds[0]), min(1.0, bounds[1])]
        scores[key] = {
            "value": float(value),
            "stderr": stderr,
            "interval": bounds and [float(bound) for bound in bounds],
            "higher_is_better": better.get(metric) is not False,
        }
    return scores


def read_results(
    name: str, found: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[HarnessRecord]]:
    """Read a task's results.

    The first score that the task lists is the main one. Where it is the mean of verdicts, it is
    told as accuracy, with the interval that all accuracies here have.

    Args:
        name: Of the task.
        found: Results of ``lm_eval.evaluate``.
        samples: Its samples of this task: one for each problem and filter.

    Returns:
        Summary and records.

    Raises:
        DataError: The task has no figure for a score.
    """
    scores = read_scores(name, found)
    if not scores:
        raise DataError(f"harness task `{name}`: gave no score that is a number")
    problems: dict[Any, list[Mapping[str, Any]]] = {}
    for sample in samples:
        problems.setdefault(sample["doc_id"], []).append(sample)
    for key, score in scores.items():
        if (correct := _count_right(key, score, samples)) is not None:
            score["correct"] = correct
            score["interval"] = list(wilson_interval(correct, len(problems)))
    main, score = next(iter(scores.items()))
    kind = {"verdicts": "correct" in score, "higher": score["higher_is_better"]}
    records = [_build_record(name, main, group, **kind) for group in problems.values()]
    summary = {
        "metric": main.partition(",")[0],
        **score,
        "problems": len(records),
        "main_score": main,
        "scores": scores,
        "solved_examples": found["n-shot"].get(name),
        "task_version": found["versions"].get(name),
    }
    if "correct" in score:
        summary |= {"metric": "accuracy", "accuracy": score["value"], "scored": len(records)}
        lines = [record.to_json() for record in records]
        summary["errors"] = dict(Counter(x["error"] for x in lines if x["error"]).most_common())
        if strict := [record.strict for record in records if record.strict is not None]:
            summary["strict_accuracy"] = sum(strict) / len(strict)
    return summary, records


def _count_right(
    key: str, score: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> int | None:
    """Count the problems that are right by a score; None where it is no mean of verdicts."""
    metric, _, chosen = key.partition(",")
    values: list[Any] = [sample.get(metric) for sample in samples if sample["filter"] == chosen]
    verdicts = _VERDICTS.search(metric) and values and all(value in (0, 1) for value in values)
    if not verdicts or not math.isclose(sum(values) / len(values), score["value"], abs_tol=1e-9):
        return None
    return sum(map(bool, values))


def _build_record(
    name: str, main: str, group: Sequence[Mapping[str, Any]], *, verdicts: bool, higher: bool
) -> HarnessRecord:
    metric, _, chosen = main.partition(",")
    sample = next(each for each in group if each["filter"] == chosen)
    value: Any = sample.get(metric)
    scores = {
        f"{one},{each['filter']}": _plain(each[one]) for each in group for one in each["metrics"]
    }
    strict = next((s.get(metric) for s in group if "strict" in s["filter"]), None)
    return HarnessRecord(
        id=f"{name}:{sample['doc_id']}",
        digest=str(sample["doc_hash"]),
        prompt=[{"role": "user", "content": str(sample["arguments"][0][0])}],
        reference=str(sample["target"]),
        scores=scores,
        score=float(value) if higher and _is_number(value) else None,
        correct=bool(value) if verdicts else None,
        strict=bool(strict) if verdicts and strict in (0, 1) else None,
        **_read_answer(sample),
    )


def _read_answer(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Read what was answered, of which the harness has three shapes."""
    first, filtered = sample["resps"][0][0], sample["filtered_resps"]
    if isinstance(first, str):
        return {"completion": first, "answer": str(filtered[0])}
    if not isinstance(first, tuple | list):  # the likelihood of a text
        return {"completion": "", "answer": None}
    logprobs = [float(response[0]) for response in filtered]
    options = [
        {"letter": str(number), "text": str(arguments[1]), "logprob": logprob}
        for number, (arguments, logprob) in enumerate(
            zip(sample["arguments"], logprobs, strict=True)
        )
    ]
    best = logprobs.index(max(logprobs))
    return {"completion": options[best]["text"], "answer": str(best), "options": options}


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) or hasattr(value, "dtype")
    return number and math.isfinite(float(value))


def _plain(value: Any) -> Any:
    """A value that JSON can hold; numpy's numbers become ours."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return float(value) if getattr(value, "size", 0) == 1 else str(value)
