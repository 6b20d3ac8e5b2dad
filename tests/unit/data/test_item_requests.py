import pytest

from posttrain.data.item_requests import load_requests, read_request, write_request
from posttrain.errors import DataError
from posttrain.files import write_jsonl
from posttrain.items import ItemRequest
from posttrain.samples.mcq import generate_mcq

REQUEST = {
    "curriculum": "common_core",
    "grade": "4",
    "subject": "ela",
    "type": "mcq",
    "difficulty": "hard",
    "locale": "en-US",
    "skills": {
        "substandard_id": "CCSS.ELA-LITERACY.L.4.1.A",
        "substandard_description": "Use relative pronouns.",
    },
    "instructions": "About animals.",
}


def test_a_request_survives_reading_and_writing():
    assert write_request(read_request(REQUEST)) == REQUEST
    assert read_request(REQUEST).skill_id == "CCSS.ELA-LITERACY.L.4.1.A"


def test_what_is_not_given_is_left_to_the_defaults():
    assert read_request({"grade": 3}) == ItemRequest(grade="3")
    assert "instructions" not in write_request(ItemRequest(grade="3"))


def test_a_request_may_stand_beside_other_fields():
    row = {"request": REQUEST, "stimulus": "Bees fly.", "content": {}, "model": "m"}
    assert read_request(row).stimulus == "Bees fly."
    assert "stimulus" not in write_request(read_request(row))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({**REQUEST, "instruction": "x"}, "unknown field `instruction`.*`instructions`"),
        ({"grade": "4", "skills": {"id": "x"}}, "unknown field `id`.*known: substandard_id"),
        ({"subject": "ela"}, "`grade` is missing"),
        ({"grade": "four"}, "K or 1 to 12, not 'four'"),
        ({"grade": ["4"]}, "`grade` is no text"),
        ({"grade": True}, "`grade` is no text"),
        ({"grade": "4", "difficulty": "awful"}, "easy, medium or hard, not 'awful'"),
        ({"grade": "4", "skills": "L.4.1"}, "`skills` is no object"),
        ({"request": "a hard one"}, "`request` is no object"),
    ],
)
def test_mistakes_name_the_field(row, problem):
    with pytest.raises(ValueError, match=problem):
        read_request(row)


def test_files_of_requests(tmp_path):
    path = tmp_path / "wishes.jsonl"
    write_jsonl(path, [{"id": "x", "grade": "4"}, {"grade": "5"}, *generate_mcq(2, seed=0)])
    found = list(load_requests(path))
    assert [name for name, _ in found] == [
        "x",
        "wishes.jsonl:2",
        "wishes.jsonl:3",
        "wishes.jsonl:4",
    ]
    assert found[3][1].skill_id.startswith("CCSS.ELA-LITERACY.")
    assert len(list(load_requests(path, limit=3))) == 3


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"grade": "4"}, {"garde": "4"}], "wishes.jsonl:2: unknown field `garde`"),
        ([{"id": 1, "grade": "4"}, {"id": "1", "grade": "5"}], "wishes.jsonl:2: a second request"),
        ([{"stem": "Which?"}], "wishes.jsonl:1: a field is missing"),
    ],
)
def test_a_row_that_is_no_request_is_named_by_its_line(tmp_path, rows, problem):
    path = tmp_path / "wishes.jsonl"
    write_jsonl(path, rows)
    with pytest.raises(DataError, match=problem):
        list(load_requests(path))
