"""How often verdicts are those that came with real outputs; `bench/grading.py` has peers."""

import hashlib
import json
import time
from collections import Counter

import pytest

from posttrain.grading.answers import find_boxes, find_math_answer, find_numeric_answer
from posttrain.grading.verdicts import Grader, Reference


def read_rows(shared_data, name):
    path = shared_data / "grading" / name
    if not path.is_file():
        pytest.skip(f"no {name} beside the project")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    marks = ("ambiguous", "conflicts_with_another_suite")
    return [row for row in rows if not any(row.get(mark) for mark in marks)]


def is_held_out(row):
    """For misses of this half no rule was written."""
    text = json.dumps([row["source"], row["prediction"], row["reference"]])
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 1


def count(rows, name):
    """Count rows by half, our verdict and theirs."""
    counts = Counter()
    with Grader(name, 20) as grader:
        for row in rows:
            reference = Reference(row["reference"] or "")
            right = bool(grader.grade(reference, row["prediction"] or "").correct)
            counts[is_held_out(row), right, row["expected"]] += 1
    return counts


def share(counts, *halves):
    chosen = {key: n for key, n in counts.items() if key[0] in halves}
    return sum(n for (_, a, b), n in chosen.items() if a == b) / sum(chosen.values())


@pytest.mark.parametrize(
    ("dataset", "name", "least"),
    [("gsm8k", "number", 0.999), ("math", "answer", 0.99), ("math", "formula", 0.993)],
)
def test_verdicts_on_real_outputs_are_those_of_their_sources(shared_data, dataset, name, least):
    rows = [r for r in read_rows(shared_data, "graded_outputs.jsonl") if r["dataset"] == dataset]
    if name == "formula":
        pytest.importorskip("math_verify")
    counts = count(rows, name)
    assert len(rows) > 1600
    assert share(counts, False, True) >= least
    assert share(counts, True) >= least - 0.005
    if dataset == "gsm8k":
        assert not any(right and not expected for _, right, expected in counts)


def test_cases_of_other_test_suites_are_judged_as_there(shared_data):
    pytest.importorskip("math_verify")
    counts = count(read_rows(shared_data, "equiv_cases.jsonl"), "formula")
    assert share(counts, False, True) >= 0.93
    assert share(counts, True) >= 0.90


def test_ordinary_answers_are_graded_fast(shared_data):
    rows = read_rows(shared_data, "graded_outputs.jsonl")[::4]
    started = time.process_time()
    for name, dataset in (("number", "gsm8k"), ("answer", "math")):
        count([row for row in rows if row["dataset"] == dataset], name)
    assert len(rows) / (time.process_time() - started) * 60 >= 20_000


def test_answers_are_found_where_other_test_suites_find_them(shared_data):
    for row in read_rows(shared_data, "extraction_cases.jsonl"):
        wanted = row["expected"]
        if "boxed" in row["kind"] and "final" not in row["kind"]:
            found = (find_boxes(row["text"]) or [(0, 0, None)])[-1][2]
        elif wanted and wanted[0].isdigit() and "\\" not in row["text"]:
            # Ours is the number alone, without what is counted.
            found, wanted = find_numeric_answer(row["text"]).text, wanted.split()[0]
        else:
            found = find_math_answer(row["text"]).text
        assert found == (wanted or None), row
