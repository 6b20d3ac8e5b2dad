from collections import Counter

from posttrain.data.dedup import find_duplicates
from posttrain.samples.text import generate_text

ROWS = list(generate_text(400, seed=1))


def test_same_seed_gives_the_same_rows_and_another_seed_others():
    assert list(generate_text(400, seed=1)) == ROWS
    assert list(generate_text(400, seed=2)) != ROWS
    assert list(generate_text(30, seed=1)) == ROWS[:30]


def test_crafts_and_languages_are_mixed():
    kinds = Counter((row["topic"], row["language"]) for row in ROWS)
    assert len(kinds) == 8
    assert min(kinds.values()) > 20
    for row in ROWS:
        assert any("\u4e00" <= letter <= "\u9fff" for letter in row["text"]) == (
            row["language"] == "zh"
        )
        assert "{" not in row["text"]


def test_some_pages_are_there_twice():
    texts = [row["text"] for row in ROWS]
    exact = find_duplicates(texts, method="exact", threshold=1.0)
    assert 5 < len(exact) < 40
    near = find_duplicates(texts, method="near", threshold=0.9)
    assert len(near) > len(exact)
