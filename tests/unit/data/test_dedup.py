import random
import sys

import pytest

from posttrain.data.dedup import comparable_text, find_duplicates
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.preference import convert_preference
from posttrain.data.records import Text
from posttrain.errors import MissingExtraError


def share(a, b):
    """Common word pairs of two texts, of all of both."""
    pairs_a, pairs_b = (set(zip(t.split(), t.split()[1:], strict=False)) for t in (a, b))
    return len(pairs_a & pairs_b) / len(pairs_a | pairs_b)


def test_exact_keeps_the_first_and_looks_past_case_and_space():
    texts = ["One  two.", "three", "one TWO.\n", "One two", "three", "今天 天气", "今天天气"]

    assert find_duplicates(texts, method="exact") == {2: 0, 4: 1, 6: 5}


def test_exact_needs_no_more_than_the_same_words():
    assert find_duplicates(["a b", "b a", "a", "b", "a b c"], method="exact") == {}


def test_near_finds_a_changed_word_in_english_and_a_changed_sign_in_chinese():
    english = "The quick brown fox jumps over the lazy dog while the cat looks on from the wall"
    chinese = "今天天气很好，我们一起去公园散步，然后回家吃饭。"
    texts = [
        english,
        chinese,
        english.replace("wall", "roof"),
        chinese.replace("吃饭", "做饭"),
        "今天天气不好，所以我们哪里也没有去，只在家里看书。",
        "A slow red hen walks under the lazy dog while nobody looks on from the wall",
    ]

    assert find_duplicates(texts, method="near", threshold=0.7) == {2: 0, 3: 1}


def test_near_repeats_point_at_the_row_that_stays():
    base = " ".join(f"word{i}" for i in range(40))

    found = find_duplicates([base, f"{base} x", f"x {base}", base], method="near", threshold=0.9)

    assert found == {1: 0, 2: 0, 3: 0}


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["a", "b"], ["ab", "a b"]])
def test_near_takes_very_short_texts(texts):
    assert find_duplicates(texts, method="near", threshold=0.5) == {}


def test_near_finds_equal_short_texts():
    assert find_duplicates(["a", "", "a", ""], method="near") == {2: 0, 3: 1}


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
def test_near_merges_nothing_below_the_threshold_and_finds_what_is_above(threshold):
    chance = random.Random(7)
    words = [f"w{i}" for i in range(400)]
    texts = []
    for _ in range(150):
        text = chance.choices(words, k=40)
        texts.append(" ".join(text))
        for _ in range(chance.randrange(1, 12)):
            text[chance.randrange(40)] = chance.choice(words)
        texts.append(" ".join(text))

    found = find_duplicates(texts, method="near", threshold=threshold)

    expected = {i for i in range(1, 300, 2) if share(texts[i - 1], texts[i]) >= threshold}
    assert all(share(texts[i], texts[first]) >= threshold for i, first in found.items())
    assert len(expected) > 10
    assert len(expected - found.keys()) <= 0.02 * len(expected)


def test_near_gives_the_same_every_time():
    chance = random.Random(3)
    texts = [" ".join(chance.choices("abcdefgh", k=12)) for _ in range(300)]

    assert find_duplicates(texts, method="near", threshold=0.5) == find_duplicates(
        texts, method="near", threshold=0.5
    )


def test_comparison_sees_words_calls_and_names_of_tools_only():
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    tools = [{"type": "function", "function": {"name": "f", "description": "long"}}]
    chat = convert_messages(
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "tool_calls": [call]},
            ],
            "tools": tools,
            "id": "7",
        }
    )
    pair = convert_preference({"prompt": "q", "chosen": "a", "rejected": "b"})

    assert comparable_text(chat).split("\n") == ["f", "q", '[{"arguments": {"x": 1}, "name": "f"}]']
    assert comparable_text(pair) == "q\na\nb"
    assert comparable_text(Text("words")) == "words"


def test_near_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'posttrain\[dedup\]'"):
        find_duplicates(["a", "a"], method="near")
    assert find_duplicates(["a", "a"], method="exact") == {1: 0}
