"""Graders side by side on outputs that carry a verdict: agreement, mistakes of both kinds, speed.

    python bench/grading.py GRADED_OUTPUTS.jsonl [EQUIV_CASES.jsonl]

Rows have `dataset` (`gsm8k` or `math`), `prediction`, `reference`, `expected`; those marked
`ambiguous` or `conflicts_with_another_suite` do not count. The peers run from their installed
packages: math-verify with its defaults, Hendrycks' rules and Minerva's normalization as
lm-evaluation-harness 0.4 ships them, and the two filters of its gsm8k task. Rows are parted in two
by a digest: one half was looked at while rules were written, the other half was not. Everything
runs in one process but our algebra, which has a child; times are processor time of both.
"""

import contextlib
import hashlib
import importlib
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from posttrain.grading.verdicts import Grader, Reference

Row = dict[str, Any]
Judge = Callable[[str, str], bool]


def read_rows(path: Path) -> list[Row]:
    """Read the rows that count."""
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    for row in rows:
        row |= {key: row[key] or "" for key in ("prediction", "reference")}
    skipped = ("ambiguous", "conflicts_with_another_suite")
    return [row for row in rows if not any(row.get(mark) for mark in skipped)]


def is_held_out(row: Row) -> bool:
    """Whether a row is of the half whose misses no rule was written for."""
    text = json.dumps([row["source"], row["prediction"], row["reference"]])
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 1


def lm_eval_folder(task: str) -> Path:
    """Folder of a task in the installed package, which is not imported as a whole."""
    found = importlib.util.find_spec("lm_eval")
    assert found
    assert found.origin
    return Path(found.origin).parent / "tasks" / task


def gsm8k_filter(name: str) -> Judge:
    """One of the two filters of lm-eval's gsm8k task, with its exact match."""
    task = yaml.safe_load((lm_eval_folder("gsm8k") / "gsm8k.yaml").read_text(encoding="utf-8"))
    steps = next(f for f in task["filter_list"] if f["name"] == name)["filter"]
    metric = importlib.import_module("lm_eval.api.metrics").exact_match_hf_evaluate
    build = importlib.import_module("lm_eval.filters").build_filter_ensemble
    ensemble = build(
        name,
        [
            (step["function"], {k: v for k, v in step.items() if k != "function"} or None)
            for step in steps
        ],
    )
    settings = {
        key: value
        for key, value in task["metric_list"][0].items()
        if key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")
    }
    instance = importlib.import_module("lm_eval.api.instance").Instance

    def judge(prediction: str, reference: str) -> bool:
        request = instance("generate_until", {}, (), 0)
        request.resps = [prediction]
        ensemble.apply([request])
        found = request.filtered_resps[name]
        return bool(metric([found], [reference], **settings)["exact_match"])

    return judge


def hendrycks() -> Judge:
    """Hendrycks' rules: the last box, or what stands between the first and the last dollar sign."""
    rules = importlib.import_module("lm_eval.tasks.hendrycks_math.utils")

    def judge(prediction: str, reference: str) -> bool:
        try:
            boxed = rules.last_boxed_only_string(prediction)
            if boxed is not None:
                return bool(rules.is_equiv(rules.remove_boxed(boxed), reference))
            doc = {"solution": rf"\boxed{{{reference}}}"}
            return bool(rules.process_results(doc, [prediction])["exact_match"])
        except Exception:  # as the harness would end there, the answer has no verdict of it
            return False

    return judge


def minerva() -> Judge | None:
    """lm-eval's minerva_math: "Final Answer: ...", normalized, then sympy."""
    try:
        rules = importlib.import_module("lm_eval.tasks.minerva_math.utils")
    except (AssertionError, ImportError):  # it takes one version of antlr4, math-verify another
        return None

    def judge(prediction: str, reference: str) -> bool:
        found = rules.normalize_final_answer(rules.get_unnormalized_answer(prediction))
        return bool(rules.is_equiv(found, rules.normalize_final_answer(reference)))

    return judge


def math_verify() -> Judge:
    """math-verify as its README shows it, all settings at their defaults."""
    library = importlib.import_module("math_verify")

    def judge(prediction: str, reference: str) -> bool:
        gold = library.parse(f"${reference}$" if "$" not in reference else reference)
        return bool(library.verify(gold, library.parse(prediction)))

    return judge


def ours(name: str) -> tuple[Judge, Grader]:
    """Our grader, with its process."""
    grader = Grader(name)  # type: ignore[arg-type] # one of the two names, from this file
    return (
        lambda prediction, reference: bool(grader.grade(Reference(reference), prediction).correct),
        grader,
    )


def cpu_seconds() -> float:
    """Processor time of this process; that of children is added when they end."""
    import resource

    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def measure(label: str, judge: Judge | None, rows: list[Row], close: Callable[[], None]) -> str:
    """Grade all rows; return a line of the table."""
    if judge is None:
        return f"| {label} | cannot be imported beside this math-verify | | | | | | |"
    judge(rows[0]["prediction"], rows[0]["reference"])
    started, walled = cpu_seconds(), time.perf_counter()
    counts: Counter[tuple[bool, bool, bool]] = Counter()
    misses = []
    with contextlib.redirect_stdout(io.StringIO()):
        for row in rows:
            right = judge(row["prediction"], row["reference"])
            counts[right == row["expected"], right, is_held_out(row)] += 1
            if right != row["expected"]:
                misses.append(row)
    close()
    walled = time.perf_counter() - walled
    seconds = max(cpu_seconds() - started, 1e-9)
    if label.startswith("ours") and "--misses" in sys.argv:
        for row in misses:
            if not is_held_out(row):
                print(row["expected"], "|", row["prediction"][-150:], "|", row["reference"][-80:])

    def share(held_out: bool | None) -> str:
        total = sum(n for (_, _, u), n in counts.items() if held_out in (None, u))
        agreed = sum(n for (same, _, u), n in counts.items() if same and held_out in (None, u))
        return f"{agreed / total:.2%}" if total else "-"

    false_positives = sum(n for (same, right, _), n in counts.items() if not same and right)
    false_negatives = sum(n for (same, right, _), n in counts.items() if not same and not right)
    return (
        f"| {label} | {share(None)} | {share(False)} | {share(True)} | {false_positives} "
        f"| {false_negatives} | {len(rows) / seconds * 60:,.0f} | {len(rows) / walled * 60:,.0f} |"
    )


def tabulate(
    title: str, rows: list[Row], judges: list[tuple[str, Judge | None, Callable[[], None]]]
) -> None:
    print(f"\n{title}: {len(rows)} rows\n")
    print(
        "| grader | agreement | seen half | held-out half | false positives | false negatives "
        "| per CPU minute | per minute |\n|---|---|---|---|---|---|---|---|"
    )
    for label, judge, close in judges:
        print(measure(label, judge, rows, close), flush=True)


def main() -> None:
    paths = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("--")]
    only_ours = "--ours" in sys.argv
    print(f"math-verify {version('math-verify')}, lm-eval {version('lm_eval')}")
    rows = read_rows(paths[0])
    sets = {name: [r for r in rows if r["dataset"] == name] for name in ("gsm8k", "math")}
    if len(paths) > 1:
        sets["cases of test suites"] = read_rows(paths[1])
    for name, chosen in sets.items():
        judge, grader = ours("number" if name == "gsm8k" else "formula")
        judges = [("ours", judge, lambda grader=grader: grader.__exit__())]
        if name != "gsm8k":
            judge, fast = ours("answer")
            judges.append(("ours, as reward", judge, lambda fast=fast: fast.__exit__()))
        if not only_ours:
            judges.append(("math-verify", math_verify(), lambda: None))
            judges.append(("Hendrycks", hendrycks(), lambda: None))
            if name == "gsm8k":
                judges += [
                    (f"lm-eval {kind}", gsm8k_filter(kind), lambda: None)
                    for kind in ("strict-match", "flexible-extract")
                ]
            else:
                judges.append(("lm-eval minerva", minerva(), lambda: None))
        tabulate(name, chosen, judges)


if __name__ == "__main__":
    main()
