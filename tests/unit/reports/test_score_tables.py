import csv
import io

import pytest

from posttrain.reports.compare_many import compare_many
from posttrain.reports.score_tables import build_score_csv, build_score_markdown


@pytest.fixture
def comparison(tmp_path, build):
    for name, right in {"a": 10, "b": 36, "c": 11}.items():
        rows = [build.make_record(n, n < right) for n in range(40)]
        build.write_task(tmp_path / name / "gsm8k", rows)
    return compare_many([tmp_path / name for name in "abc"])


def test_csv_has_every_number_in_full(comparison):
    rows = list(csv.DictReader(io.StringIO(build_score_csv(comparison))))
    assert [row["evaluation"].rpartition("/")[2] for row in rows] == ["a", "b", "c"]
    assert [float(row["value"]) for row in rows] == [0.25, 0.9, 0.275]
    assert [row["best"] for row in rows] == ["0", "1", "0"]
    contender = comparison.tasks[0].contenders[0]
    assert float(rows[1]["p_holm"]) == contender.adjusted_p
    assert float(rows[1]["minus_first_low"]) == contender.paired.paired.interval[0]
    assert (rows[1]["only_this_better"], rows[1]["only_first_better"]) == ("26", "0")
    assert rows[0]["p"] == rows[0]["minus_first"] == ""


def test_markdown_marks_what_is_shown_to_be_best(comparison):
    text = build_score_markdown(comparison)
    assert "| **90.0 % (" in text
    assert text.count("**") == 2
    assert "| A |" in text
    assert "gsm8k 40." in text
