import random

import numpy as np
import pytest

from posttrain.data import dedup
from posttrain.data.dedup import (
    comparable_text,
    exact_digest,
    find_duplicates,
    find_duplicates_exact,
    find_duplicates_near,
    near_sketch,
)
from posttrain.data.formats.messages import convert_messages
from posttrain.data.formats.preference import convert_preference
from posttrain.data.records import Text


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


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("One  two.", "one TWO.\n", True),
        ("今天 天气 good", "今天天气good", True),
        ("Stra\u00dfe", "STRASSE", True),
        ("e\u0301t\u00e9", "\u00e9te\u0301", True),
        ("one two", "onetwo", False),
        ("今 a b", "今 ab", False),
        ("one two.", "one two", False),
    ],
)
def test_digests_are_equal_where_the_words_are(one, other, same):
    assert (exact_digest(Text(one)) == exact_digest(Text(other))) == same


def test_digest_and_sketch_are_the_same_on_every_machine():
    # Frozen: another answer would find other repeats elsewhere.
    assert exact_digest(Text("Word 字")).hex() == "a4a4bec5e7c32ebe31722f5b7eab882b"
    assert near_sketch(Text("a b c")).tolist() == [313707893, 566351358]


def test_sketch_is_the_set_of_word_pairs():
    sketch = near_sketch(Text("a b a b a"))

    assert sketch.dtype == np.uint32
    assert len(sketch) == 2  # "a b" and "b a"
    assert set(sketch.tolist()) < set(near_sketch(Text("B A b\nc")).tolist())


def test_exact_finds_the_first_of_many_rows():
    random = np.random.default_rng(0)
    digests = random.integers(0, 256, (3000, 16), dtype=np.uint8)
    digests[random.integers(0, 3000, 900)] = digests[random.integers(0, 3000, 900)]
    first = find_duplicates_exact(digests)

    seen = {}
    earlier = [seen.setdefault(row.tobytes(), i) for i, row in enumerate(digests)]
    assert first.tolist() == [e if e != i else -1 for i, e in enumerate(earlier)]
    assert (first >= 0).sum() > 500
    assert find_duplicates_exact(digests[:0]).tolist() == []


def test_near_compares_long_rows_by_a_sample_of_their_pairs():
    chance = random.Random(5)
    words = [f"w{i}" for i in range(50_000)]
    long = chance.choices(words, k=8000)
    near, far = list(long), list(long)
    for place in chance.sample(range(8000), 300):  # 0.93 of the pairs are common
        near[place] = chance.choice(words)
    for place in chance.sample(range(8000), 3000):  # 0.25
        far[place] = chance.choice(words)
    # Another length, so that the two samples do not reach equally far: 0.80.
    longer = long + chance.choices(words, k=2000)
    texts = [" ".join(text) for text in (long, near, far, longer)]

    assert len(near_sketch(Text(texts[0]))) == 1024
    assert find_duplicates(texts, method="near", threshold=0.7) == {1: 0, 3: 0}
    assert find_duplicates(texts, method="near", threshold=0.87) == {1: 0}


def test_near_reads_sketches_from_a_file(tmp_path):
    sketches = [near_sketch(Text(text)) for text in ("a b c", "x y", "A b c", "x z")]
    path = tmp_path / "sketches.bin"
    path.write_bytes(b"".join(sketch.tobytes() for sketch in sketches))
    offsets = np.cumsum([0, *map(len, sketches)])

    stays = find_duplicates_near(offsets, np.memmap(path, np.uint32, "r"), 0.7)

    assert stays.tolist() == [-1, -1, 0, -1]


@pytest.mark.parametrize("threshold", [0.01, 0.99, 1.0])
def test_near_takes_any_threshold(threshold):
    texts = ["a b c d", "e f g h", "a b c d"]

    assert find_duplicates(texts, method="near", threshold=threshold) == {2: 0}


def test_staying_rows_that_are_equal_are_compared_once(monkeypatch):
    chance = random.Random(3)
    words = [f"w{i}" for i in range(60)]
    near_misses = [list(words) for _ in range(20)]
    for row in near_misses:  # 0.71 of the pairs are common
        for place in chance.sample(range(1, 59, 2), 5):
            row[place] = f"x{chance.random()}"
    repeated = [*words, "more"]
    texts = [" ".join(row) for row in (*near_misses, *[words] * 30, repeated)]
    sketches = [near_sketch(Text(text)) for text in texts]
    offsets = np.cumsum([0, *map(len, sketches)])
    staying = np.array([False] * 20 + [True] * 30 + [False])
    compared, share = [], dedup._share
    monkeypatch.setattr(dedup, "_share", lambda *pair: compared.append(pair) or share(*pair))

    stays = find_duplicates_near(offsets, np.concatenate(sketches), 0.8, staying)

    assert stays.tolist() == [-1] * 50 + [20]
    with_watched = [pair for pair in compared if np.array_equal(pair[1], sketches[20])]
    assert 10 < len(with_watched) <= 21
