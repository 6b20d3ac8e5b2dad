import pytest

from posttrain.data.formats.text import convert_text
from posttrain.data.records import RowError


def test_the_first_field_that_holds_text_is_taken():
    row = {"body": "b", "text": " ", "title": "t"}

    assert convert_text(row, ("text", "body", "title")).text == "b"
    assert convert_text(row, ("title", "body")).text == "t"


@pytest.mark.parametrize(
    "turns",
    [
        {"messages": [{"role": "user", "content": " a "}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
)
def test_turns_are_joined_where_no_field_holds_text(turns):
    assert convert_text({**turns, "text": ""}).text == "a\nb"
    assert convert_text({**turns, "text": "t"}).text == "t"


def test_a_row_without_text_says_what_was_looked_for():
    with pytest.raises(RowError) as caught:
        convert_text({"title": "t"}, ("text", "body"))
    assert caught.value.reason == "no text"
    assert caught.value.detail == "none of text, body holds any"
