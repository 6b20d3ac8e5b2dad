import pytest

from posttrain.errors import DataError
from posttrain.vocabulary.bpe import load_byte_bpe, to_text
from posttrain.vocabulary.wanted import merge_wanted


@pytest.fixture
def merge(tmp_path):
    def run(bpe, *lines):
        path = tmp_path / "terms.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return merge_wanted(bpe, path)

    return run


def test_every_term_is_one_token(tiny_bpe, merge, expand):
    terms = [
        "糖尿病",
        "尿病",
        "糖尿病肾病",
        "病肾",
        "哈哈哈哈哈",
        " metformin",
        "metformin",
        "😀😀",
    ]
    merged = merge(tiny_bpe, *terms)
    assert merged.wanted == tuple(terms)
    assert not merged.refused
    assert [len(e.ids) for e in merged.bpe.encode(terms)] == [1] * len(terms)
    texts = ["患者有糖尿病肾病，服metformin。", "哈哈哈 a metformin b", *terms]
    assert expand(merged.bpe, texts) == [e.ids for e in tiny_bpe.encode(texts)]


def test_parts_of_characters_are_joined_first(tiny_bpe, merge):
    merged = merge(tiny_bpe, "糖尿病")
    assert all(to_text(t) or len(t) < 3 for t in merged.bpe.new_ids)


def test_other_lines_are_named(tiny_bpe, build, merge):
    merged = merge(tiny_bpe, "糖尿病", "", "a", "糖尿病", "in 2024")
    assert merged.wanted == ("糖尿病",)
    reasons = [(line["line"], line["reason"]) for line in merged.refused]
    assert [number for number, _ in reasons] == [3, 4, 5]
    assert "one token already" in reasons[0][1]
    assert "one token already" in reasons[1][1]
    assert "several words" in reasons[2][1]
    blocked = merge(load_byte_bpe(build("a+b", "b+c", "a+bc"), "small"), "xyz", "abc")
    assert "reached in another way" in blocked.refused[0]["reason"]


def test_a_way_round_a_token_that_exists(build, merge):
    # ab + c would make `abc`, which exists: c + e goes first.
    base = load_byte_bpe(build("a+b", "b+c", "a+bc"), "small")
    merged = merge(base, "abce")
    assert len(merged.bpe.encode(["abce"])[0].ids) == 1
    assert merged.bpe.added == (("c", "e"), ("ab", "ce"))


def test_list_without_a_usable_token(tiny_bpe, merge):
    with pytest.raises(DataError, match=r"terms.txt:2: no token .* several words"):
        merge(tiny_bpe, "", "1 2 3")
    with pytest.raises(DataError, match=r"terms.txt: no text"):
        merge(tiny_bpe, "")
