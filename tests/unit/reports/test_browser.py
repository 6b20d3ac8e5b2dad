import json
import re

import pytest

from posttrain.reports.browser import build_browser, embed_json

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]> &lt; &amp;",
    "\x00\x07\x1b[31m",
    "\u202eabc\u2066",
    "\u2028\u2029\x85",
    "half \ud83d of a pair",
    "{{ 7 * 7 }} {% raw %}",
]


def load(browser):
    return json.loads(str(browser.data))


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_model_writes_comes_back_and_is_no_markup(text, build):
    record = build.make_record(1, True, completion=text, answer=text, reference=text)
    browser = build_browser("math", {text: [record]})
    assert not re.search("[<>&\u2028\u2029\ud800-\udfff]", str(browser.data))
    str(browser.data).encode()
    found = load(browser)
    sample = found["items"][0]["sides"][0]["samples"][0]
    assert (sample["completion"], sample["answer"]) == (text, text)
    assert found["names"] == [text]


def test_numbers_that_json_lacks_are_left_out(build):
    record = build.make_record(1, True, seconds=float("nan"), completion_tokens=float("inf"))
    sample = load(build_browser("math", {"a": [record]}))["items"][0]["sides"][0]["samples"][0]
    assert "seconds" not in sample
    assert "tokens" not in sample
    with pytest.raises(ValueError, match="JSON"):
        embed_json([float("nan")])


def test_samples_of_a_problem_are_together_and_in_order(build):
    rows = [build.make_record(n, s == 1, sample=s) for s in (1, 0) for n in (1, 2)]
    browser = build_browser("math", {"a": rows})
    assert browser.count == 2
    for item in load(browser)["items"]:
        samples = item["sides"][0]["samples"]
        assert [(one["sample"], one["correct"]) for one in samples] == [(0, False), (1, True)]


def test_sides_meet_at_the_name_of_the_problem(build):
    sides = {
        "a": [build.make_record(1, True), build.make_record(2, False)],
        "b": [build.make_record(2, True), build.make_record(3, True)],
    }
    items = load(build_browser("math", sides))["items"]
    assert [item["id"] for item in items] == [f"data/test.jsonl:{n}" for n in (1, 2, 3)]
    present = [[side is not None for side in item["sides"]] for item in items]
    assert present == [[True, False], [True, True], [False, True]]


def test_solved_examples_are_kept_once_and_the_question_by_itself(build):
    head = "Solved.\n" + "Question: 1 + 1\nAnswer: 2\n" * 20
    tail = "\nPut the answer in a box."
    rows = [
        build.make_record(n, True, prompt=[{"role": "user", "content": f"{head}Is {n} odd?{tail}"}])
        for n in range(1, 40)
    ]
    data = load(build_browser("math", {"a": rows}))
    item = data["items"][6]
    assert data["texts"][item["question"]] == "Is 7 odd?"
    ((role, pieces),) = item["sides"][0]["prompt"]
    assert (role, "".join(data["texts"][p] for p in pieces)) == ("user", f"{head}Is 7 odd?{tail}")
    assert sum(text.count("1 + 1") for text in data["texts"]) == 20


def test_unscored_is_told_apart_from_wrong_and_from_what_has_no_verdict(build):
    rows = [
        build.make_record(1, None, error="unanswered"),
        build.make_record(2, False),
        {"id": "3", "excerpt": "text", "tokens": 9, "bits_per_byte": 1.25},
    ]
    items = load(build_browser("math", {"a": rows}))["items"]
    samples = [item["sides"][0]["samples"][0] for item in items]
    assert samples[0]["correct"] is None
    assert samples[1]["correct"] is False
    assert "correct" not in samples[2]
    assert (samples[2]["completion"], samples[2]["bits_per_byte"]) == ("text", 1.25)


def test_fields_that_have_no_place_are_shown_all_the_same(build):
    record = build.make_record(1, False, rules={"rules.form": {"passed": False}})
    sample = load(build_browser("items", {"a": [record]}))["items"][0]["sides"][0]["samples"][0]
    assert "rules.form" in sample["more"]["rules"]
