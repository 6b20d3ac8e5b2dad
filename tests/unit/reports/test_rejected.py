import json
import re

import pytest

from posttrain.errors import DataError
from posttrain.reports.rejected import (
    build_rejects_page,
    collect_by_reason,
    collect_rejects,
    render_reject,
)


@pytest.fixture
def rejects(tmp_path):
    rows = [
        {"file": "a.jsonl", "line": 2, "reason": "too long", "detail": "9 of 8", "row": {"x": "é"}},
        {"file": "a.jsonl", "line": 5, "reason": "broken JSON", "detail": "", "row": '{"a"\x1b'},
        {
            "file": "b.jsonl",
            "line": 1,
            "reason": "too long",
            "detail": "",
            "row": {"x": "y" * 9000},
        },
        {"file": "b.jsonl", "line": 3, "reason": "repeated", "detail": "as a", "row": None},
    ]
    path = tmp_path / "rejects.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_some_rows_are_kept_and_all_are_counted(rejects):
    rows, reasons = collect_rejects(rejects, first=1, count=2)

    assert [row.origin for row in rows] == ["a.jsonl:5", "b.jsonl:1"]
    assert reasons == {"too long": 2, "broken JSON": 1, "repeated": 1}
    assert len(rows[1].row) < 4100
    assert rows[1].row.endswith("characters)")


def test_first_rows_of_each_reason(rejects):
    found = collect_by_reason(rejects, 1)

    assert {reason: [row.origin for row in rows] for reason, rows in found.items()} == {
        "too long": ["a.jsonl:2"],
        "broken JSON": ["a.jsonl:5"],
        "repeated": ["b.jsonl:3"],
    }


def test_data_without_rejects_have_none(tmp_path):
    assert collect_rejects(tmp_path / "gone.jsonl") == ([], {})


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "rejects.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"rejects\.jsonl:1: not valid JSON"):
        collect_rejects(tmp_path / "rejects.jsonl")


def test_a_row_cannot_steer_the_terminal(rejects):
    rows, _ = collect_rejects(rejects, count=4)
    shown = [render_reject(row).plain for row in rows]

    assert shown[0] == 'a.jsonl:2: too long (9 of 8)\n{ "x": "é" }'
    assert shown[1] == 'a.jsonl:5: broken JSON\n{"a"␛'
    assert shown[3] == "b.jsonl:3: repeated (as a)"


def test_page_can_be_filtered_by_reason_and_escapes_rows(rejects, tmp_path):
    rows, reasons = collect_rejects(rejects, count=4)
    page = build_rejects_page(rows, reasons, tmp_path / "p.html").read_text(encoding="utf-8")

    assert re.findall(r'<article class="card example"[^>]*data-reason="([^"]*)"', page) == [
        *("too long", "broken JSON", "too long", "repeated"),
    ]
    assert re.findall(r"<option value=\"([^\"]*)\">", page)[1:] == list(reasons)
    assert "{&#34;x&#34;" not in page.split("<pre>")[0]
    assert "4 of 4 rows that are not used" in page
