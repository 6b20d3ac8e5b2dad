import json
import re

import pytest

from posttrain.data.audit import AuditCheck
from posttrain.reports.data import build_data_report, build_data_view, render_audit
from posttrain.reports.folders import load_stage

REPORT = {
    "digest": "cafe" * 16,
    "kind": "chat",
    "sources": [
        {
            "path": "/d/<a>.jsonl",
            "format": "messages",
            "evidence": "fields",
            "rows": 130,
            "rejects": {"too long": 4, "broken JSON": 1},
        }
    ],
    "rows_read": 130,
    "rows_used": 110,
    "examples": {"train": 105, "validation": 8},
    "test_rows": 10,
    "rejects": {"too long": 4, "repeated": 3, "in an evaluation set": 2, "broken JSON": 1},
    "dedup": {"method": "exact", "threshold": 0.7, "repeated_rows": 3, "groups": 2},
    "split": {"validation": 0.1, "test": 0.1, "seed": 7, "group_by": "passage"},
    "mixture": [{"path": "/d/a.jsonl", "examples": 105, "draws": 210, "passes": 2.0}],
    "overlong": {"truncated": 0, "split": 3, "lost parts": 1},
    "encoder": {"name": "tiktoken", "reason": "proven equal"},
    "contamination": {
        "action": "drop",
        "against": ["/d/test.jsonl"],
        "evaluation_problems": 50,
        "training_rows": 120,
        "matched_rows": 2,
        "matches": {"n-grams": 2},
        "pairs": [
            {
                "training": "/d/a.jsonl:7",
                "evaluation": "/d/test.jsonl:2",
                "what": "n-grams",
                "share": 0.83,
                "text": "three <apples> and four",
            }
        ],
    },
    "audit": [{"name": "ends", "checked": 113, "failures": 0, "examples": []}],
    "turns": {"2": 90, "4": 15, "90": 5},
    "roles": {"assistant": 130, "user": 130, "system": 20},
    "tools": {
        "with_system": 20,
        "with_tools": 30,
        "with_calls": 25,
        "with_reasoning": 0,
        "calls": 40,
        "distinct_called": 22,
        "most_called": {"look_up": 30, "add": 5},
    },
    "languages": {"sampled": 16, "counts": {"English": 12, "Chinese": 4}},
    "tokens": 20_000,
    "trained_tokens": 5_000,
    "retokenized": 2,
    "supervised": {
        "share": 0.25,
        "histogram": {"counts": [5, 100, 8], "edges": [0, 0.33, 0.66, 1]},
        "weights": {"0": 15_000, "0.5": 1_000, "1": 4_000},
    },
    "length_tokens": {"mean": 185.2, "p50": 170.0, "p90": 300.0, "p99": 480.0, "max": 5120},
    "length_histogram": {"counts": [3, 40, 55], "edges": [10, 120, 250, 380], "beyond": 15},
    "longest": [["/d/a.jsonl:9", 5120], ["/d/a.jsonl:3", 900]],
    "packing": {"batch_tokens": 8192, "examples": 105, "batches": 3, "fill": 0.998},
}
REJECTS = [
    {"file": "/d/a.jsonl", "line": n, "reason": "too long", "detail": f"{n} of 9", "row": {"n": n}}
    for n in range(1, 5)
]
PART = {**REJECTS[0], "line": 6, "reason": "part too long"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "report.json").write_text(json.dumps(REPORT))
    lines = "".join(json.dumps(row) + "\n" for row in [*REJECTS, PART])
    (tmp_path / "data" / "rejects.jsonl").write_text(lines)
    return tmp_path


def test_page_of_a_data_set_shows_all_of_its_report(folder):
    page = build_data_report(folder / "data", "sft").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))

    for part in (
        "Used for examples 110",
        "Rows read 130",
        "The lines above add up to the rows read",
        "batches of 8,192 tokens are 99.8 % full",
        "3 dropped (exact)",
        "80 : 10 : 10 %, seed 7, group by passage",
        "3 rows parted, 1 parts of them left out",
        "tiktoken: proven equal",
        "/d/a.jsonl 105 210 2.00",
        "15 longer examples are not drawn",
        "/d/a.jsonl:9 5,120 tokens",
        "look_up 30",
        "and 20 other tools",
        "English 12",
        "0.5 1,000",
        "n-grams 83.0 % three &lt;apples&gt; and four",
    ):
        assert part in text, part
    assert page.count("<svg") == 3
    assert "60 and more in the last bar" in page  # one row of 90 turns must not squeeze the others
    assert "<apples>" not in page


def test_rejected_rows_are_shown_by_reason_and_no_more_than_some(folder):
    view = build_data_view(load_stage(folder))

    found = {reason: (count, [row.origin for row in rows]) for reason, count, rows in view.rejects}
    assert found["too long"] == (4, ["/d/a.jsonl:1", "/d/a.jsonl:2", "/d/a.jsonl:3"])
    assert found["repeated"] == (3, [])
    assert found["part too long"] == (1, ["/d/a.jsonl:6"])
    assert view.balanced  # a part is no row


def test_rows_that_do_not_add_up_are_told(folder):
    report = {**REPORT, "rows_used": 109}
    (folder / "data" / "report.json").write_text(json.dumps(report))

    assert not build_data_view(load_stage(folder)).balanced


def test_report_of_prompts_has_no_supervised_share(folder):
    report = {**REPORT, "trained_tokens": 0, "mixture": None, "contamination": None, "dedup": None}
    (folder / "data" / "report.json").write_text(json.dumps(report))
    page = build_data_report(folder / "data").read_text(encoding="utf-8")

    assert "Supervised share of each example" not in page
    assert "were not searched for evaluation problems" in page


def test_audit_is_a_table():
    checks = [AuditCheck("one", 7, 2, ["a:1", "a:2"]), AuditCheck("two", 0)]
    lines = [line.split() for line in render_audit(checks).splitlines()]

    assert ["one", "7", "2", "a:1,", "a:2"] in lines
    assert ["two", "none", "to", "ask", "0"] in lines
