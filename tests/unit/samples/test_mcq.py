import re
from collections import Counter

import pytest

from posttrain.samples.mcq import KEYS, SKILLS, generate_mcq

ROWS = list(generate_mcq(720, seed=1))


def right_text(row):
    return next(option["text"] for option in row["options"] if option["key"] == row["answer"])


def rows_of(skill):
    found = [row for row in ROWS if row["skill"] == skill]
    assert found
    return found


def test_same_seed_gives_the_same_rows_and_another_seed_others():
    assert list(generate_mcq(720, seed=1)) == ROWS
    assert list(generate_mcq(720, seed=2)) != ROWS
    assert list(generate_mcq(30, seed=1)) == ROWS[:30]


def test_row_shape():
    for row in ROWS:
        assert list(row) == [
            "standard",
            "standard_description",
            "grade",
            "skill",
            "difficulty",
            "stem",
            "options",
            "answer",
            "explanation",
        ]
        assert [option["key"] for option in row["options"]] == list(KEYS)
        assert row["answer"] in KEYS
        assert row["difficulty"] in {"easy", "medium", "hard"}


def test_options_differ_even_without_capitals_where_these_are_not_the_point():
    for row in ROWS:
        texts = [option["text"] for option in row["options"]]
        assert len(set(texts)) == 4
        if row["skill"] != "capitalization":
            assert len({text.lower() for text in texts}) == 4


def test_keys_are_balanced():
    assert Counter(row["answer"] for row in ROWS) == dict.fromkeys(KEYS, 180)


def test_the_answer_cannot_be_told_from_its_length():
    longest = [max(row["options"], key=lambda option: len(option["text"])) for row in ROWS]
    hits = sum(option["key"] == row["answer"] for row, option in zip(ROWS, longest, strict=True))
    assert hits < 0.4 * len(ROWS)


def test_skills_have_well_formed_codes_and_cover_the_grades():
    assert len({skill.name for skill in SKILLS}) == len(SKILLS) >= 12
    assert {skill.grade for skill in SKILLS} == set("2345678")
    for skill in SKILLS:
        assert re.fullmatch(
            r"CCSS\.ELA-LITERACY\.(L\.[2-8]\.\d\.[A-I]|RI\.[2-8]\.\d)", skill.standard
        )


def test_rows_carry_the_standard_of_their_skill_and_every_skill_comes_equally_often():
    table = {skill.name: (skill.standard, skill.description, skill.grade) for skill in SKILLS}
    for row in ROWS:
        assert (row["standard"], row["standard_description"], row["grade"]) == table[row["skill"]]
    assert set(Counter(row["skill"] for row in ROWS).values()) == {720 // len(SKILLS)}


def test_explanation_names_the_right_option_and_a_reason():
    for row in ROWS:
        start = f'Option {row["answer"]} ("{right_text(row)}") is right. '
        assert row["explanation"].startswith(start)
        assert len(row["explanation"]) > len(start) + 20


def test_no_question_comes_twice_while_there_are_new_ones():
    assert len({(row["stem"], right_text(row)) for row in ROWS}) > 0.99 * len(ROWS)


def test_only_the_right_option_agrees_with_its_subject():
    plural = ("My cousins", "Those boys", "Nora and her brother", "The girls on the soccer team")
    for row in rows_of("subject-verb agreement"):
        sentence = row["stem"].split("\n\n")[1]
        assert right_text(row).endswith("s") != sentence.startswith(plural)


def test_only_the_right_series_has_a_comma_after_each_item_but_the_last():
    pattern = re.compile(r"[A-Z][a-z]+ [a-z]+ [^,]+, [^,]+, and [^,]+\.")
    for row in rows_of("commas in a series"):
        fitting = [option["key"] for option in row["options"] if pattern.fullmatch(option["text"])]
        assert fitting == [row["answer"]]


@pytest.mark.parametrize("voice", ["passive", "active"])
def test_voice_of_the_right_option_is_the_one_asked_for(voice):
    rows = [row for row in rows_of("active and passive voice") if f"the {voice}" in row["stem"]]
    assert rows
    for row in rows:
        passive = [option["key"] for option in row["options"] if " by the " in option["text"]]
        assert len(passive) == (1 if voice == "passive" else 3)
        assert (row["answer"] in passive) == (voice == "passive")


def test_a_simile_has_like_or_as_and_the_metaphor_has_not():
    for row in rows_of("similes and metaphors"):
        compares = re.search(r" (as \w+ as|(swims|slept|runs) like) ", right_text(row))
        assert bool(compares) == ("simile" in row["stem"])
