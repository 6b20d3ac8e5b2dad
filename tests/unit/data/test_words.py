import re

import numpy as np
import pytest

from posttrain.data.words import CJK, hash_runs, hash_words

WORDS = {
    "spaces": re.compile(rf"[{CJK}]|[^\s{CJK}]+"),
    "letters": re.compile(rf"[{CJK}]|[^\W_{CJK}]+"),
}
TEXTS = [
    "",
    " \n ",
    "one",
    "one two, one-two  two",
    "字",
    "今天天气很好，word字word",
    "é e\u0301 ü_x 中a文 ñ12",
    "🙂 🙂🙂 \U00020000\U00020001",
    "\ud800 x",
]


def hashes(text, parted_by="spaces"):
    return hash_words(text, parted_by)[0].tolist()


@pytest.mark.parametrize("parted_by", ["spaces", "letters"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_of_the_rule_and_equal_ones_alone_hash_alike(text, parted_by):
    found = list(WORDS[parted_by].finditer(text))
    hashed, starts = hash_words(text, parted_by)

    assert starts.tolist() == [match.start() for match in found]
    words = [match.group() for match in found]
    assert len(set(zip(words, hashed.tolist(), strict=True))) == len(set(words))
    assert len(set(hashed.tolist())) == len(set(words))


def test_a_word_hashes_alike_in_every_text_and_place():
    ascii_text, other = hashes("a the b"), hashes("ünder the 字 the")

    assert ascii_text[1] == other[1] == other[3]


def test_hashes_are_the_same_on_every_machine():
    # Frozen: sketches and matches depend on them.
    assert hashes("word 字") == [18371329894149492845, 17786546949729735903]
    words, _ = hash_words("a b c d", "spaces")
    assert hash_runs(words, 3).tolist() == [14060405089247175310, 3597740972717868017]


@pytest.mark.parametrize("unit", ["word ", "字", "x" * 999 + " "])
def test_a_long_text_is_cut_between_words(unit):
    text = unit * (200_000 // len(unit))
    hashed, starts = hash_words(text, "spaces")

    assert starts.tolist() == [match.start() for match in WORDS["spaces"].finditer(text)]
    assert len(set(hashed.tolist())) == 1


def test_runs_tell_order_and_borders_of_words():
    texts = ["a b c", "a c b", "b a c", "ab c", "a bc", "c b a"]
    runs = [hash_runs(hash_words(text, "spaces")[0], 2).tolist() for text in texts]

    assert [len(run) for run in runs] == [2, 2, 2, 1, 1, 2]
    # Five pairs of the three letters, and the two with a longer word.
    assert len({value for run in runs for value in run}) == 5 + 2


def test_a_run_longer_than_the_text_is_none():
    words, _ = hash_words("a b", "spaces")

    assert hash_runs(words, 3).tolist() == []
    assert hash_runs(np.empty(0, np.uint64), 1).tolist() == []
