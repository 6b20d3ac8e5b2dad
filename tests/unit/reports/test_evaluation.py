import json
import re
import time

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.results import GradedRecord, summarize
from posttrain.evaluation.statistics import wilson_interval
from posttrain.reports import formatting
from posttrain.reports.evaluation import build_evaluation_page, build_run_pages, sort_lengths

_BLOCK = re.compile(r'<script type="application/json" class="items"[^>]*>(.*?)</script>', re.S)


def write(build, folder, records, **changes):
    """Write an evaluation whose results are what the evaluation itself would count."""
    known = set(GradedRecord.__dataclass_fields__)
    graded = [GradedRecord(**{k: v for k, v in r.items() if k in known}) for r in records]
    results = {"task": "math", "name": "math", "model": "tiny", **summarize(graded)}
    folder.mkdir(exist_ok=True)
    # Escaped, as halves of surrogate pairs must be.
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "records.jsonl").write_text("".join(lines))
    (folder / "results.json").write_text(json.dumps({**results, **changes}))
    return json.loads((folder / "results.json").read_text())


def plain(html):
    visible = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", html, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", visible).split())


def items_of(html):
    return [json.loads(block)["items"] for block in _BLOCK.findall(html)]


@pytest.fixture
def records(build):
    return [
        build.make_record(
            n, n % 3 > 0, strict=n % 3 > 0, groups={"level": f"Level {n % 2}", "科目": "数论 & <b>"}
        )
        for n in range(1, 61)
    ]


def test_figures_are_those_of_the_results(tmp_path, build, records):
    results = write(build, tmp_path, records)
    page = plain(build_evaluation_page(tmp_path).read_text(encoding="utf-8"))
    low, high = wilson_interval(40, 60)
    assert results["interval"] == [low, high]
    assert f"66.7 % 95 % interval {formatting.format_interval((low, high))}; 40 of 60 right" in page
    for value, one in results["groups"]["level"].items():
        shown = f"{value} {one['correct']} of {one['problems']} "
        interval = formatting.format_interval(one["interval"])
        assert f"{shown}{formatting.format_percent(one['accuracy'])} {interval}" in page
    ((error, count),) = results["errors"].items()
    assert f"{error} {count} 100.0 %" in page
    assert results["strict_accuracy"] == 40 / 60
    assert f"66.7 % ({formatting.format_interval((low, high))}) strictly" in page


def test_unscored_answers_and_samples_are_told_and_in_no_share(tmp_path, build, records):
    rows = [{**row, "strict": row["correct"]} for row in records]
    write(build, tmp_path, rows, scored=55, unscored=5, correct=33, value=0.6)
    page = plain(build_evaluation_page(tmp_path).read_text(encoding="utf-8"))
    assert "33 of 55 right; 5 unscored, in no number" in page
    assert f"({formatting.format_interval(wilson_interval(40, 60))}) strictly" in page
    sampled = [{**row, "sample": n} for row in rows for n in (0, 1, 2)]
    results = write(build, tmp_path, sampled)
    page = plain(build_evaluation_page(tmp_path).read_text(encoding="utf-8"))
    assert "120 of 180 right; 60 problems with 3 answers each" in page
    interval = formatting.format_interval(results["pass_at_k"]["2"]["interval"])
    assert f"2 66.7 % ({interval}) 66.7 % (" in page


def test_stated_results_are_shown_even_where_records_say_otherwise(tmp_path, build, records):
    write(build, tmp_path, records, value=0.123, correct=7)
    page = plain(build_evaluation_page(tmp_path).read_text(encoding="utf-8"))
    assert "12.3 %" in page
    assert "7 of 60 right" in page


def test_the_page_stands_alone_and_only_its_own_script_may_run(tmp_path, build):
    nasty = "</script><img src=x onerror=alert(1)>\x00\u202e\ud800"
    rows = [build.make_record(1, False, completion=nasty, groups={nasty: nasty}, error=nasty)]
    write(build, tmp_path, [*rows, build.make_record(2, True, groups={nasty: "b"})])
    html = build_evaluation_page(tmp_path).read_text(encoding="utf-8")
    assert "<img" not in html
    assert "\x00" not in html
    assert html.count("<script") == html.count("</script>") == 2
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'")
    assert re.search(r"script-src 'sha256-[\w+/=]+'$", policy)
    assert re.search(r'(src|href)="(https?:)?//', html) is None
    ((first, _),) = items_of(html)
    assert first["sides"][0]["samples"][0]["completion"] == nasty


def test_ten_thousand_items_make_a_page_quickly(tmp_path, build):
    head = "Solved.\n" + "Question: 1 + 1\nAnswer: 2\n" * 80
    rows = [
        build.make_record(
            n,
            n % 2 == 0,
            completion="word " * 200 + r"\boxed{7}",
            parse="boxed",
            prompt=[{"role": "user", "content": f"{head}What is {n}?"}],
        )
        for n in range(10_000)
    ]
    write(build, tmp_path, rows)
    begun = time.process_time()
    page = build_evaluation_page(tmp_path)
    assert time.process_time() - begun < 20
    # Twice what was written: the solved examples of 20 MB are there once.
    assert page.stat().st_size < 2 * 10_000 * 1_000
    assert page.stat().st_size > 10_000 * 1_000


def test_lengths_are_sorted_by_what_became_of_the_answers(build):
    rows = [
        build.make_record(1, True, completion_tokens=10),
        build.make_record(2, False, completion_tokens=20),
        build.make_record(3, False, completion_tokens=30, error="truncated"),
        build.make_record(4, None, completion_tokens=40, error="unanswered"),
    ]
    lengths = {"right": [10], "wrong": [20], "truncated": [30], "unscored": [40]}
    assert sort_lengths(rows) == lengths
    assert sort_lengths([{"id": "1", "correct": True, "completion_tokens": 0}]) == {}


def test_texts_that_are_foretold_have_a_page_without_verdicts(tmp_path, build):
    rows = [{"id": "t:1", "digest": "a", "excerpt": "It is.", "tokens": 9, "bits_per_byte": 1.5}]
    results = {"metric": "perplexity", "value": 7.25, "interval": None, "problems": 1}
    build.write_jsonl(tmp_path / "records.jsonl", rows)
    build.write_json(tmp_path / "results.json", {"task": "perplexity", "name": "text", **results})
    html = build_evaluation_page(tmp_path).read_text(encoding="utf-8")
    assert "7.25 no interval; 1 texts" in plain(html)
    assert items_of(html)[0][0]["sides"][0]["samples"][0]["bits_per_byte"] == 1.5


def test_every_evaluation_of_a_run_gets_its_page_and_the_report_leads_there(run, build):
    from posttrain.reports.run import build_run_report

    assert 'href="after/gsm8k' not in build_run_report(run).read_text()
    pages = build_run_pages(run)
    assert [p.relative_to(run).as_posix() for p in pages] == [
        "after/gsm8k/report.html",
        "before/gsm8k/report.html",
    ]
    assert all(page.is_file() for page in pages)
    assert 'href="after/gsm8k/report.html"' in build_run_report(run).read_text()


def test_a_group_without_verdicts_or_interval_is_no_mistake(tmp_path, build, records):
    whole = {"problems": 2, "scored": 2, "unscored": 0, "correct": 1}
    groups = {
        "level": {
            "none": {**whole, "scored": 0, "correct": 0, "accuracy": None, "interval": None},
            "few": {**whole, "accuracy": 0.5, "interval": None},
        }
    }
    write(build, tmp_path, records, groups=groups)
    page = plain(build_evaluation_page(tmp_path).read_text(encoding="utf-8"))
    assert "Accuracy by level few 1 of 2 50.0 % Bar:" in page


def test_what_is_no_evaluation_is_one_clear_line(tmp_path, build):
    with pytest.raises(DataError, match="no results of an evaluation"):
        build_evaluation_page(tmp_path)
    build.write_json(tmp_path / "results.json", {"metric": "accuracy", "value": "much"})
    with pytest.raises(DataError, match=r"results\.json: not the results"):
        build_evaluation_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("normalize", "named"), [("bytes", "log-probability per byte"), ("none", "log-probability")]
)
def test_the_score_that_decides_between_options_is_named(build, tmp_path, normalize, named):
    option = {"letter": "A", "text": "water", "logprob": -6.0, "logprob_per_byte": -1.2}
    rows = [build.make_record(1, True, parse="likelihood", options=[option])]
    settings = {"method": "likelihood", "normalize": normalize}
    write(build, tmp_path / "arc", rows, settings=settings)
    html = build_evaluation_page(tmp_path / "arc").read_text()
    # What follows in the header is the score's own card.
    assert re.search(rf"Decided by {named}(?! per)", plain(html))
    (item,) = items_of(html)[0]
    assert item["sides"][0]["samples"][0]["options"] == [["A", "water", -6.0, -1.2]]
