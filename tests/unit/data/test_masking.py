import numpy as np
import pytest

from posttrain.config.train import MaskConfig, MlmStage
from posttrain.data.masking import Masking, Words, mask_batch
from posttrain.layout import Segment, build_batch
from tests.encoders import build_wordpiece

MASK, SPECIAL = 4, [0, 1, 2, 3, 4]


def build(**settings):
    return Masking(MaskConfig(**settings), MASK, SPECIAL, 100)


MASKING = build()


def make_batch(lengths=(400, 400, 200)):
    """Blocks between a begin (1) and an end token (2)."""
    random = np.random.default_rng(0)
    rows = [np.array([1, *random.integers(5, 100, n - 2), 2]) for n in lengths]
    return build_batch([Segment(row, np.zeros(len(row))) for row in rows])


def test_a_share_of_the_ordinary_tokens_is_scored_at_its_own_place():
    packed = make_batch()
    masked = mask_batch(packed, MASKING, [7])
    places, targets = masked["score_positions"], masked["score_targets"]
    assert len(places) == round(0.15 * 994)
    assert (packed["input_ids"][0, places] == targets).all()
    assert not set(targets.tolist()) & set(SPECIAL)
    assert masked["score_weights"].tolist() == [1.0] * len(places)
    untouched = np.setdiff1d(np.arange(1000), places)
    assert (masked["input_ids"][0, untouched] == packed["input_ids"][0, untouched]).all()
    assert (
        masked["score_segments"].tolist() == np.searchsorted([400, 800], places, "right").tolist()
    )
    assert not masked["segments"].causal
    assert packed["segments"].causal


def test_most_are_hidden_some_replaced_some_left():
    masked = mask_batch(make_batch((5000,)), build(share=0.9), [1])
    shown = masked["input_ids"][0, masked["score_positions"]]
    hidden = (shown == MASK).mean()
    left = (shown == masked["score_targets"]).mean()
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert left == pytest.approx(0.1, abs=0.02)
    assert not set(shown.tolist()) & (set(SPECIAL) - {MASK})


def test_the_seed_decides():
    first, again, other = (mask_batch(make_batch(), MASKING, s) for s in ([1, 5], [1, 5], [1, 6]))
    assert np.array_equal(first["input_ids"], again["input_ids"])
    assert not np.array_equal(first["score_positions"], other["score_positions"])


def test_at_least_one_token_is_hidden_and_the_source_is_left_alone():
    packed = make_batch((3,))
    before = packed["input_ids"].copy()
    masked = mask_batch(packed, MASKING, [0])
    assert masked["score_positions"].tolist() == [1]
    assert np.array_equal(packed["input_ids"], before)


@pytest.mark.parametrize(("hidden", "replaced"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.2), (0.0, 0.0)])
def test_the_shares_are_those_of_the_recipe(hidden, replaced):
    masked = mask_batch(make_batch((20_000,)), build(hidden=hidden, random=replaced), [3])
    shown = masked["input_ids"][0, masked["score_positions"]]
    assert len(shown) == round(0.15 * 19_998)
    # Of 3,000 tokens, 4 standard deviations at most; a random token may be the right one.
    assert (shown == MASK).mean() == pytest.approx(hidden, abs=0.04)
    left = (shown == masked["score_targets"]).mean()
    assert left == pytest.approx(1 - hidden - replaced + replaced / 95, abs=0.04)


def test_random_tokens_are_drawn_evenly():
    masked = mask_batch(make_batch((40_000,)), build(share=0.9, hidden=0, random=1), [4])
    shown = masked["input_ids"][0, masked["score_positions"]]
    counts = np.bincount(shown, minlength=100)
    expected = len(shown) / 95
    # Chi squared with 94 degrees of freedom: 200 has a chance of 10^-9.
    assert ((counts[5:] - expected) ** 2 / expected).sum() < 200
    assert not counts[:5].any()


LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def tokenizer():
    """Words of one to five letters: known ones are a token, all others one token a letter."""
    return build_wordpiece([" ".join(LETTERS), "known words are one token"])


def make_text(tokenizer, words=6_000, texts=3):
    random = np.random.default_rng(5)
    segments = []
    for _ in range(texts):
        parts = [
            "known"
            if random.random() < 0.3
            else "".join(random.choice(list(LETTERS), random.integers(1, 6)))
            for _ in range(words // texts)
        ]
        ids = np.array(tokenizer(" ".join(parts))["input_ids"])
        segments.append(Segment(ids, np.zeros(len(ids))))
    return build_batch(segments)


def find_words(tokenizer, packed):
    """Number of the word of each token, by the marks in the tokens; -1 of special ones."""
    tokens = tokenizer.convert_ids_to_tokens(packed["input_ids"][0].tolist())
    numbers, number = [], -1
    for token in tokens:
        number += not token.startswith("##")
        numbers.append(-1 if token in ("[CLS]", "[SEP]") else number)
    return np.array(numbers)


@pytest.mark.parametrize("units", ["words", "spans"])
def test_a_word_is_chosen_whole_or_not_at_all(tokenizer, units):
    packed = make_text(tokenizer)
    masking = Masking.build(MaskConfig(units=units), tokenizer)
    masked = mask_batch(packed, masking, [7])
    words = find_words(tokenizer, packed)
    chosen = np.zeros(len(words), bool)
    chosen[masked["score_positions"]] = True
    for word in np.unique(words[chosen]):
        assert chosen[words == word].all()
    assert not chosen[words == -1].any()
    ordinary = int((words >= 0).sum())
    assert round(0.15 * ordinary) - 5 < chosen.sum() <= round(0.15 * ordinary)
    assert np.array_equal(packed["input_ids"][0, chosen], masked["score_targets"])
    assert masked["score_positions"].tolist() == sorted(masked["score_positions"].tolist())


def test_words_of_every_length_are_as_likely(tokenizer):
    packed = make_text(tokenizer)
    masking = Masking.build(MaskConfig(units="words"), tokenizer)
    words = find_words(tokenizer, packed)
    sizes = np.bincount(words[words >= 0])
    seen = np.zeros(len(sizes))
    for seed in range(20):
        places = mask_batch(packed, masking, [seed])["score_positions"]
        seen[np.unique(words[places])] += 1
    shares = [seen[sizes == size].mean() / 20 for size in (1, 2, 3, 4, 5)]
    assert shares == pytest.approx([0.15] * 5, abs=0.015)


def test_tokens_of_a_word_meet_their_fate_one_by_one_those_of_a_span_together(tokenizer):
    packed = make_text(tokenizer)
    words = find_words(tokenizer, packed)
    mixed = {}
    for units in ("words", "spans"):
        config = MaskConfig(units=units, hidden=0.5, random=0.0, span_words=1)
        masked = mask_batch(packed, Masking.build(config, tokenizer), [2])
        places = masked["score_positions"]
        hidden = masked["input_ids"][0, places] == tokenizer.mask_token_id
        by_word = [hidden[words[places] == w] for w in np.unique(words[places])]
        mixed[units] = sum(0 < h.mean() < 1 for h in by_word)
    assert mixed["words"] > 100
    assert mixed["spans"] == 0


def choose_spans(config, words=40_000):
    table = Words(np.arange(words), np.ones(words, np.int64), np.arange(words) > 0)
    return table.choose(round(config.share * words), config, np.random.default_rng(0))


def test_spans_have_the_lengths_of_the_paper():
    """Geometric with p = 0.2, cut off at 10 and normalized: a mean of 3.8 words."""
    # So few of them that none meets another.
    _, spans = choose_spans(MaskConfig(units="spans", share=0.02))
    lengths = np.bincount(spans)[:-1]  # the last one ends where there are enough
    chances = 0.2 * 0.8 ** np.arange(10)
    chances /= chances.sum()
    assert lengths.max() == 10
    assert lengths.mean() == pytest.approx((chances * np.arange(1, 11)).sum(), abs=0.5)
    found = np.bincount(lengths, minlength=11)[1:]
    expected = chances * len(lengths)
    # Chi squared with 9 degrees of freedom: 35 has a chance of 6 in 100,000.
    assert ((found - expected) ** 2 / expected).sum() < 35
    assert (chances * np.arange(1, 11)).sum() == pytest.approx(3.8, abs=0.01)


def test_spans_end_as_the_recipe_says():
    _, spans = choose_spans(MaskConfig(units="spans", share=0.02, span_end=0.6, span_words=3))
    lengths = np.bincount(spans)[:-1]
    assert lengths.max() == 3
    assert lengths.mean() == pytest.approx((0.6 + 2 * 0.24 + 3 * 0.096) / 0.936, abs=0.15)


def test_a_span_stays_within_its_text(tokenizer):
    packed = make_text(tokenizer, words=900, texts=300)
    masking = Masking.build(MaskConfig(units="spans", share=0.5, span_end=0.01), tokenizer)
    words = Words.find(
        packed["input_ids"][0],
        ~np.isin(packed["input_ids"][0], masking.special_ids),
        np.repeat(np.arange(300), packed["segments"].lengths),
        masking.words,
    )
    places, spans = words.choose(600, masking.config, np.random.default_rng(1))
    owners = np.repeat(np.arange(300), packed["segments"].lengths)[places]
    for span in np.unique(spans):
        assert len(set(owners[spans == span])) == 1
        assert np.all(np.diff(places[spans == span]) == 1)
    assert np.bincount(spans).max() > 3


@pytest.mark.parametrize("units", ["words", "spans"])
def test_a_single_long_word_is_hidden_all_the_same(tokenizer, units):
    ids = np.array(tokenizer("abcdefgh")["input_ids"])
    packed = build_batch([Segment(ids, np.zeros(len(ids)))])
    masked = mask_batch(packed, Masking.build(MaskConfig(units=units), tokenizer), [0])
    assert masked["score_positions"].tolist() == list(range(1, len(ids) - 1))


@pytest.mark.parametrize("units", ["words", "spans"])
def test_the_seed_decides_about_words_too(tokenizer, units):
    packed = make_text(tokenizer, words=300)
    masking = Masking.build(MaskConfig(units=units), tokenizer)
    first, again, other = (mask_batch(packed, masking, seed) for seed in ([1], [1], [2]))
    assert np.array_equal(first["input_ids"], again["input_ids"])
    assert not np.array_equal(first["score_positions"], other["score_positions"])


def test_a_number_is_the_share_and_too_much_is_refused():
    values = {"stage": "mlm", "data": {"sources": [{"path": "t.txt"}]}}
    assert MlmStage.model_validate({**values, "mask": 0.3}).mask == MaskConfig(share=0.3)
    with pytest.raises(ValueError, match="at most 1"):
        MaskConfig(hidden=0.8, random=0.3)
