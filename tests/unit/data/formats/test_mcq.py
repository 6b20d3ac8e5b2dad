import pytest

from posttrain.data.formats import detect_format
from posttrain.data.formats.mcq import convert_mcq
from posttrain.items import read_item
from posttrain.samples.mcq import generate_mcq

ROW = next(generate_mcq(1, seed=1))


def test_an_item_is_taught_as_it_will_be_asked_for():
    assert detect_format([ROW], "rows.jsonl")[0] == "mcq"
    chat = convert_mcq(ROW)
    asked, answer = chat.messages
    assert asked["role"] == "user"
    for said in (ROW["grade"], ROW["standard"], ROW["difficulty"]):
        assert said in asked["content"]
    assert ROW["stem"] not in asked["content"]
    item = read_item(answer["content"])
    assert item.question == ROW["stem"]
    assert item.answer == ROW["answer"]
    assert chat.keys["stem"] == ROW["stem"]


@pytest.mark.parametrize(
    "change",
    [{"answer": "E"}, {"options": []}, {"explanation": " "}, {"standard": None, "stem": 3}],
)
def test_a_flawed_item_is_refused(reason, change):
    assert reason(convert_mcq, {**ROW, **change}) == "no usable item"
