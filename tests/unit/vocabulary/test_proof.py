import json

import pytest
import torch
from transformers import AutoTokenizer

from posttrain.errors import VerificationError
from posttrain.vocabulary.bpe import load_byte_bpe, save_tokenizer
from posttrain.vocabulary.learn import learn_tokens
from posttrain.vocabulary.proof import HOSTILE, check_logits, check_tokenizer, measure_text


@pytest.fixture
def extended(tiny_tokenizer, tiny_bpe, cases, tmp_path):
    """The built-in tokenizer, extended and saved; a function loads it after an edit."""
    bpe = learn_tokens(tiny_bpe, cases, new_tokens=40, min_frequency=2, max_characters=16).bpe
    save_tokenizer(tiny_tokenizer, bpe, tmp_path)

    def load(edit=None):
        path = tmp_path / "tokenizer.json"
        if edit:
            definition = json.loads(path.read_text())
            edit(definition)
            path.write_text(json.dumps(definition))
        return AutoTokenizer.from_pretrained(tmp_path)

    load.bpe = bpe
    return load


def test_sound_tokenizer_passes(tiny_tokenizer, extended, cases):
    proved = check_tokenizer(tiny_tokenizer, extended(), extended.bpe, cases)
    # Three special tokens, each also within text, and one rendered conversation.
    assert proved == {"texts": len(cases) + len(HOSTILE) + 7, "exact": proved["texts"]}


@pytest.mark.parametrize(
    ("place", "merge"),
    [
        (0, ["b", "c"]),  # too early: `abcd` would no longer begin with `ab`
        (3, ["ab", "c"]),  # a new way to an old token
    ],
)
def test_merges_that_change_old_encodings_are_found(build, tmp_path, place, merge):
    tokenizer = build("a+b", "c+d", words=("bc", "abc"))
    grown = load_byte_bpe(tokenizer, "small").extend([("ab", "cd")])
    save_tokenizer(tokenizer, grown, tmp_path)
    path = tmp_path / "tokenizer.json"
    texts = ["abcd", "abce", "xbcy"]
    check_tokenizer(tokenizer, AutoTokenizer.from_pretrained(tmp_path), grown, texts)
    definition = json.loads(path.read_text())
    definition["model"]["merges"].insert(place, merge)
    path.write_text(json.dumps(definition))
    tampered = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(VerificationError, match="encoded beyond joining old tokens"):
        check_tokenizer(tokenizer, tampered, grown, texts)


def test_moved_id_is_found(tiny_tokenizer, extended, cases):
    def swap(definition):
        vocab = definition["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]

    with pytest.raises(VerificationError, match=r"another id for '[ab]'"):
        check_tokenizer(tiny_tokenizer, extended(swap), extended.bpe, cases)


def test_other_decoding_is_found(tiny_tokenizer, extended, cases):
    def break_decoder(definition):
        definition["decoder"] = {"type": "Fuse"}

    with pytest.raises(VerificationError, match="decoded differently"):
        check_tokenizer(tiny_tokenizer, extended(break_decoder), extended.bpe, cases)


def test_lost_template_is_found(tiny_tokenizer, extended, cases):
    loaded = extended()
    loaded.chat_template = None
    with pytest.raises(VerificationError, match="chat_template"):
        check_tokenizer(tiny_tokenizer, loaded, extended.bpe, cases)


def test_tokenizers_that_look_up_whole_words(build, tmp_path):
    # `bcd` is made within `abcd`; alone the old tokenizer has `bc` + `d`, and the new one finds it.
    tokenizer = build("b+c", "a+b", "c+d", ignore_merges=True)
    base = load_byte_bpe(tokenizer, "small")
    grown = base.extend([("b", "cd")])
    save_tokenizer(tokenizer, grown, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded("bcd")["input_ids"]) == 1
    assert check_tokenizer(tokenizer, loaded, grown, ["bcd", "abcd"])["texts"] > len(HOSTILE)


def test_counts_by_hand(build, tmp_path):
    tokenizer = build("a+b")
    grown = load_byte_bpe(tokenizer, "small").extend([("ab", "c")])
    save_tokenizer(tokenizer, grown, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert measure_text(tokenizer, loaded, ["abc x\nq\n\nabcab", "é"]) == {
        "documents": 2,
        "characters": 15,
        "words": 5,
        "bytes": 16,
        # ab c _ x n q n n ab c ab, and two bytes
        "tokens_before": 13,
        "tokens_after": 11,
        "lines": 4,
        "changed": 2,
    }


@pytest.mark.parametrize("change", [2e-4, float("nan")])
def test_other_logits_are_found(tiny_bpe, change):
    grown = tiny_bpe.extend([("Z", "Z")])
    before = torch.randn(5, 1536).clamp(-4, 4)
    after = torch.cat([before, torch.full((5, 1), 100.0)], dim=1)  # the new token's own are free
    assert check_logits([before], [after], grown) == 0.0
    after[3, 7] += change
    with pytest.raises(VerificationError, match="logits of old tokens differ"):
        check_logits([before], [after], grown)
