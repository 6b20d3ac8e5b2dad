import pytest

from posttrain.grading.readability import count_sentences, count_syllables, estimate_grade


@pytest.mark.parametrize(
    ("word", "syllables"),
    [
        ("the", 1), ("cat", 1), ("make", 1), ("jumped", 1), ("wanted", 2), ("table", 2),
        ("boxes", 2), ("cakes", 1), ("people", 2), ("education", 4), ("whole", 1), ("rhythm", 1),
    ],
)  # fmt: skip
def test_syllables(word, syllables):
    assert count_syllables(word) == syllables


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", 3),
        ("Mr. Lee went home.", 1),
        ('"Stop!" he said. They did.', 3),
        ("Badly copied.Without a space.", 2),
        ("A heading\n\nA line", 2),
        ("no end", 1),
    ],
)
def test_sentences(text, sentences):
    assert count_sentences(text) == sentences


def test_grade_by_hand():
    # 6 words of 7 syllables in 1 sentence.
    expected = 0.39 * 6 + 11.8 * 7 / 6 - 15.59
    assert estimate_grade("The cat sat on the table.") == pytest.approx(expected)


def test_long_words_and_sentences_read_harder():
    easy = "The dog ran. The cat sat. They had fun."
    hard = "Constitutional amendments necessarily complicate contemporary judicial interpretation."
    assert estimate_grade(easy) < 2 < 12 < estimate_grade(hard)


def test_no_words_no_grade():
    with pytest.raises(ValueError, match="without words"):
        estimate_grade("五个苹果")
