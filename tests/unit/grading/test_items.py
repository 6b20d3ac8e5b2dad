import json
import re

import pytest

from posttrain.grading.items import (
    RULE_NAMES,
    Expectations,
    check_item,
    find_duplicates,
    parse_content,
    parse_grade,
    read_content,
)
from posttrain.items import Item, format_item
from posttrain.samples.mcq import generate_mcq

GOOD = {
    "question": "Which word is a synonym of happy?",
    "answer_options": [
        {"key": "A", "text": "glad"},
        {"key": "B", "text": "angry"},
        {"key": "C", "text": "tired"},
        {"key": "D", "text": "slow"},
    ],
    "answer": "A",
    "answer_explanation": "Option A is right: glad and happy mean the same.",
}


def options(*texts, keys="ABCDEFG"):
    return [{"key": key, "text": text} for key, text in zip(keys, texts, strict=False)]


def judge(changes=None, **expected):
    content, problem = read_content({**GOOD, **(changes or {})})
    findings = check_item(content, Expectations(**expected), format_problem=problem)
    return {finding.rule.removeprefix("rules."): finding for finding in findings}


def failing(changes=None, **expected):
    return [name for name, f in judge(changes, **expected).items() if f.passed is False]


def test_a_good_item_fails_no_rule():
    assert failing() == []


def test_every_rule_but_the_one_on_batches_is_applied_in_order():
    assert [f"rules.{name}" for name in judge()] == list(RULE_NAMES[:-1])


def test_a_failing_rule_has_a_reason_and_a_passing_one_has_none():
    for finding in judge({"answer": "E", "question": "Happy."}).values():
        assert bool(finding.reason) == (finding.passed is not True)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"question": " \u200b"}, ["question_present"]),
        ({"answer_options": options("glad", "angry", "tired")}, ["option_count"]),
        ({"answer_options": options("glad", "angry", "tired", " ")}, ["options_filled"]),
        ({"answer_options": options("glad", "angry", "tired", "angry ")}, ["distinct_options"]),
        (
            {"answer_options": options("glad", "angry", "tired", "slow", keys="ABCC")},
            ["distinct_options"],
        ),
        ({"answer": "E", "answer_explanation": "They agree."}, ["answer_in_options"]),
        ({"answer": "", "answer_explanation": "They agree."}, ["answer_in_options"]),
        ({"answer_explanation": ""}, ["explanation_present"]),
        ({"answer": "B"}, ["explanation_agrees"]),
        (
            {"answer": "B", "answer_explanation": "The correct answer is (C)."},
            ["explanation_agrees"],
        ),
        (
            {"answer_options": options("glad and full of joy about it", "angry", "tired", "slow")},
            ["option_lengths"],
        ),
        (
            {"answer_options": options("glad", "no", "angry at all the others", "tired of it")},
            [],
        ),
        (
            {"answer_options": options("glad", "as angry as a bear that has been woken up",
                                       "as tired as a dog after a long day out", "slow")},
            ["option_lengths"],
        ),
        (
            {"answer_options": options("glad", "angry", "tired", "None of the above")},
            ["no_all_or_none"],
        ),
        ({"answer_options": options("glad", "angry", "tired", "Both A and B")}, ["no_all_or_none"]),
        ({"question": "Happy is a word."}, ["asks_something"]),
        ({"question": "Choose the word that means happy."}, []),
        ({"question": "I am ___ to see you."}, []),
        ({"question": "A word that means happy is"}, []),
        (
            {"answer_options": options("Which word is a synonym of happy? Glad.", "Which word",
                                       "Which word is tired", "Which word is slow")},
            ["option_lengths", "options_differ_from_question"],
        ),
        ({"question": "What is the main idea of the passage?"}, ["stimulus_present"]),
        ({"question": "In lines 5-6, what does the author say?"}, ["stimulus_present"]),
        ({"question": "What is the poem about?", "stimulus": "Roses are red."}, []),
        (
            {"question": "Read the passage.\n\nBees are busy. They fly from flower to flower all "
                         "day.\n\nWhat is the main idea of the passage?"},
            [],
        ),
        ({"question": "Which word fits?\n\nThere were many ___ in the story."}, []),
    ],
)  # fmt: skip
def test_each_fault_is_found_by_its_rule(changes, rules):
    assert failing(changes) == rules


def test_rules_that_cannot_speak_do_not_apply():
    found = judge({"answer_options": [], "answer_explanation": "They agree."})
    silent = {name for name, finding in found.items() if finding.passed is None}
    assert {"options_filled", "distinct_options", "explanation_agrees", "option_lengths",
            "stimulus_present", "reading_level"} <= silent  # fmt: skip


HARD = (
    "Constitutional amendments necessarily complicate contemporary judicial interpretation, "
    "particularly where legislators anticipated considerable disagreement concerning "
    "fundamental jurisdictional responsibilities among federal institutions. What, then, follows "
    "from all of this?"
)


def test_reading_level_is_compared_with_the_grade_band():
    found = judge({"question": HARD}, grades=(4, 4))["reading_level"]
    assert found.passed is False
    assert re.search(r"reads like grade \d+\.\d, above 11\.7", found.reason)
    easy = " ".join(["The dog ran to the big red barn."] * 5) + " Why?"
    assert judge({"question": easy}, grades=(4, 4))["reading_level"].passed is True


@pytest.mark.parametrize(
    ("question", "expected", "reason"),
    [
        (HARD, {"grades": None}, "no grade"),
        (HARD, {"grades": (4, 4), "english": False}, "not English"),
        (HARD, {"grades": (1, 1)}, "below grade 2"),
        ("Why?", {"grades": (4, 4)}, "1 words are too few"),
    ],
)
def test_reading_level_needs_a_grade_and_enough_words(question, expected, reason):
    found = judge({"question": question}, **expected)["reading_level"]
    assert found.passed is None
    assert reason in found.reason


@pytest.mark.parametrize(
    ("text", "grades"),
    [("K", (0, 0)), ("4", (4, 4)), ("9-10", (9, 10)), ("13", None), ("four", None), ("", None)],
)
def test_grades(text, grades):
    assert parse_grade(text) == grades


ITEM = Item(
    "Which one?", {"A": "one", "B": "two", "C": "six", "D": "ten"}, "A", "Option A is right."
)


def test_what_a_model_is_taught_to_write_is_valid():
    content, problem = parse_content(format_item(ITEM))
    assert problem == ""
    assert content["answer_options"][1] == {"key": "B", "text": "two"}
    assert content["answer_explanation"] == "Option A is right."


def test_an_item_inside_other_text_is_read_and_reported():
    written = format_item(ITEM)
    for text in (f"```json\n{written}\n```", f"Here you are {{sic}}: {written}"):
        content, problem = parse_content(text)
        assert content["question"] == "Which one?"
        assert problem == "text around the JSON object"


def test_thinking_is_no_item():
    thought = format_item(ITEM).replace("Which one?", "A draft?")
    content, _ = parse_content(f"<think>{thought}</think>\n{format_item(ITEM)}")
    assert content["question"] == "Which one?"


@pytest.mark.parametrize("text", ["", "no idea", "{broken", "[1, 2]", "[" * 5000, '"{}"x'])
def test_text_without_an_item_never_raises(text):
    content, problem = parse_content(text)
    assert content["question"] == ""
    assert problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({k: v for k, v in GOOD.items() if k != "answer"}, "`answer` is missing"),
        ({**GOOD, "question": 5}, "`question` is no text"),
        ({**GOOD, "answer_options": ["glad"]}, "no list of {key, text}"),
        ({**GOOD, "answer_options": [{"key": "A", "text": 3}]}, "no list of {key, text}"),
        (None, "not a JSON object"),
    ],
)
def test_broken_shapes_fail_the_format_rule(value, problem):
    content, found = read_content(value)
    assert problem in found
    assert check_item(content, Expectations(), format_problem=found)[0].passed is False


def test_near_copies_in_a_batch_are_found():
    def item(question, *texts):
        return read_content({**GOOD, "question": question, "answer_options": options(*texts)})[0]

    long = "Which of these four words could best take the place of happy in the second sentence"
    batch = [
        item(f"{long}?", "glad", "angry", "tired", "slow"),
        item("Which sentence has a simile?", "He ran like the wind.", "He ran fast and far."),
        item("Which sentence has a simile?", "She is a star.", "She sings like a bird at dawn."),
        item(f"So {long}?", "slow", "glad", "angry", "tired"),
        item("", ""),
    ]
    verdicts = find_duplicates(batch, similarity=0.8)
    assert [passed for passed, _ in verdicts] == [True, True, True, False, None]
    assert verdicts[3][1] == "95% the same as item #1"
    assert find_duplicates(batch, similarity=0.96)[3][0] is True


def test_no_pair_of_copies_is_missed():
    """Prefix filtering against comparing all pairs."""
    rows = [read_content(row)[0] for row in generate_mcq(150, seed=3)]
    for similarity in (0.3, 0.5, 0.8):
        quick = [passed for passed, _ in find_duplicates(rows, similarity=similarity)]
        shingles = []
        for row in rows:
            texts = sorted(option["text"] for option in row["answer_options"])
            words = re.findall(r"\w+", " ".join([row["question"], *texts]).lower())
            shingles.append({tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))})
        slow = [
            all(len(a & b) / len(a | b) < similarity for b in shingles[:i])
            for i, a in enumerate(shingles)
        ]
        assert quick == slow
        assert False in slow or similarity == 0.8


def test_our_own_sample_items_pass_every_rule():
    for row in generate_mcq(120, seed=0):
        content, problem = read_content(row)
        expected = Expectations(grades=parse_grade(row["grade"]))
        findings = check_item(content, expected, format_problem=problem)
        assert [f for f in findings if f.passed is False] == []


def test_published_sat_items_pass_the_rules(shared_data):
    """206 SAT items: a rule that fails many of them would be wrong, not they."""
    lines = (shared_data / "mcq" / "agieval" / "sat-en.jsonl").read_text().splitlines()
    contents, counts = [], dict.fromkeys(RULE_NAMES, 0)
    for row in map(json.loads, lines):
        texts = [re.sub(r"^\([A-D]\)", "", text).strip() for text in row["options"]]
        value = {
            "stimulus": row["passage"],
            "question": row["question"],
            "answer_options": options(*texts),
            "answer": row["label"],
            "explanation": row["other"]["solution"] or "",
        }
        content, problem = read_content(value)
        contents.append(content)
        for finding in check_item(content, Expectations(grades=(11, 12)), format_problem=problem):
            counts[finding.rule] += finding.passed is False
    copies = [passed for passed, _ in find_duplicates(contents, similarity=0.8)]
    assert len(contents) == 206
    # 70 rows come without an explanation; speeches of the 19th century read above any grade.
    assert counts.pop("rules.explanation_present") == 70
    assert counts.pop("rules.reading_level") < 0.15 * 206
    # "Choice D is correct because" in the explanation of a C: a slip in the published text.
    assert counts.pop("rules.explanation_agrees") == 1
    assert not any(counts.values()), counts
    assert copies.count(False) == 1


def test_published_science_items_pass_the_rules(shared_data):
    lines = (shared_data / "mcq" / "arc" / "ARC-Challenge-Dev.jsonl").read_text().splitlines()
    failed = 0
    for row in map(json.loads, lines):
        listed = row["question"]["choices"]
        content, problem = read_content(
            {
                "question": row["question"]["stem"],
                "answer_options": [{"key": o["label"], "text": o["text"]} for o in listed],
                "answer": row["answerKey"],
                "explanation": "Given elsewhere.",
            }
        )
        expected = Expectations(options=len(listed))
        findings = check_item(content, expected, format_problem=problem)
        failed += any(finding.passed is False for finding in findings)
    assert len(lines) == 294
    assert failed <= 3
