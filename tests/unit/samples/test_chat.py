from datetime import date, datetime, timedelta

import pytest

from posttrain.samples.chat import KINDS, generate_chat

ROWS = list(generate_chat(400, seed=1))


def exchanges(row):
    """The (question, answer) pairs of a row."""
    turns = [m["content"] for m in row["messages"] if m["role"] != "system"]
    return list(zip(turns[::2], turns[1::2], strict=True))


def first_exchanges_starting(text):
    found = [exchanges(row) for row in ROWS if exchanges(row)[0][0].startswith(text)]
    assert found
    return found


def is_chinese(text):
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def test_same_seed_gives_the_same_rows_and_another_seed_others():
    assert list(generate_chat(400, seed=1)) == ROWS
    assert list(generate_chat(400, seed=2)) != ROWS


def test_a_shorter_run_is_the_start_of_a_longer_one():
    assert list(generate_chat(25, seed=1)) == ROWS[:25]
    assert list(generate_chat(0, seed=1)) == []


def test_roles_alternate_after_an_optional_system_turn():
    for row in ROWS:
        assert list(row) == ["messages"]
        roles = [message["role"] for message in row["messages"]]
        if roles[0] == "system":
            roles = roles[1:]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in row["messages"])


def test_rows_vary_in_length_language_and_system_turn():
    assert {len(exchanges(row)) for row in ROWS} == {1, 2, 3}
    assert {row["messages"][0]["role"] for row in ROWS} == {"system", "user"}
    assert {is_chinese(row["messages"][0]["content"]) for row in ROWS} == {True, False}


def test_system_turn_has_the_language_of_the_conversation():
    for row in ROWS:
        assert len({is_chinese(m["content"]) for m in row["messages"] if m["role"] != "user"}) == 1


def test_every_kind_comes_equally_often():
    openings = {exchanges(row)[0][0][:6] for row in ROWS}
    assert len(KINDS) >= 10
    assert len(openings) >= 10


def test_reversed_lists_are_reversed_and_later_turns_build_on_them():
    for talk in first_exchanges_starting("Reverse the order of this list: "):
        words = talk[0][0].split(": ")[1].split(", ")
        assert talk[0][1].split(", ") == words[::-1]
        if len(talk) > 1:
            assert talk[1][1] == ", ".join(words[::-1]).upper()
        if len(talk) > 2:
            assert words[-1].upper() in talk[2][1]


def test_sorted_numbers_are_sorted():
    for talk in first_exchanges_starting("Sort these numbers"):
        numbers = [int(text) for text in talk[0][0].split(": ")[1].split(", ")]
        assert talk[0][1] == ", ".join(map(str, sorted(numbers)))
        if len(talk) > 1:
            assert talk[1][1].endswith(f"is {max(numbers) - min(numbers)}.")


def test_dates_and_weekdays_are_right():
    for talk in first_exchanges_starting("Write the date "):
        day = date.fromisoformat(talk[0][0].split()[3])
        assert datetime.strptime(talk[0][1], "%d %B %Y").date() == day
        if len(talk) > 1:
            assert talk[1][1] == f"It is a {day:%A}."


def test_arrival_is_departure_plus_travel_time():
    for talk in first_exchanges_starting("A train leaves at "):
        words = talk[0][0].split()
        end = datetime.strptime(words[4], "%H:%M") + timedelta(minutes=int(words[9]))
        assert talk[0][1] == f"It arrives at {end:%H:%M}."


def test_chinese_characters_are_counted():
    found = [talk for talk in map(exchanges, ROWS) if "这句话有多少个字" in talk[0][0]]
    assert found
    for talk in found:
        sentence = talk[0][0].split("”")[0].removeprefix("“")
        assert talk[0][1] == f"这句话有{len(sentence)}个字。"


@pytest.mark.parametrize("opening", ["Hello! My name is ", "你好！我叫"])
def test_the_name_is_remembered(opening):
    talks = [talk for talk in first_exchanges_starting(opening) if len(talk) > 1]
    assert talks
    for talk in talks:
        name = talk[0][0].removeprefix(opening).replace("，", ",").split(",")[0]
        assert name in talk[1][1]
