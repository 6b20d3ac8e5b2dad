import subprocess
import sys

import pytest

from posttrain.vocabulary.bpe import load_byte_bpe, to_text
from posttrain.vocabulary.learn import count_uses, learn_tokens


def learn(bpe, texts, **changes):
    limits = {"new_tokens": 60, "min_frequency": 2, "max_characters": 16, **changes}
    return learn_tokens(bpe, texts, **limits)


def count(bpe, texts):
    return sum(len(e.ids) for e in bpe.encode(texts))


def test_words_of_the_domain_become_tokens(tiny_bpe, cases):
    learned = learn(tiny_bpe, cases, new_tokens=200)
    found = {to_text(token) for token in learned.bpe.new_ids}
    assert found & {"糖尿病", "确诊糖尿病", "，确诊糖尿病"}
    assert any("血糖" in (text or "") for text in found)
    assert count(learned.bpe, cases) < 0.3 * count(tiny_bpe, cases)


def test_encoding_is_the_old_one_with_tokens_joined(tiny_bpe, cases, expand):
    learned = learn(tiny_bpe, cases)
    others = ["今日血糖高？ HbA1c 糖 尿 病", "An English text.", "糖糖尿尿病病"]
    assert expand(learned.bpe, cases + others) == [e.ids for e in tiny_bpe.encode(cases + others)]
    assert learned.bpe.encode(others[1:2])[0].ids == tiny_bpe.encode(others[1:2])[0].ids


def test_saved_tokens_add_up(tiny_bpe, cases):
    learned = learn(tiny_bpe, cases)
    assert sum(learned.uses.values()) == count(tiny_bpe, cases) - count(learned.bpe, cases)
    assert learned.uses == count_uses(learned.bpe, cases)
    assert learned.candidates > len(learned.bpe.added) == 60


def test_best_tokens_are_taken(tiny_bpe, cases):
    few, many = (learn(tiny_bpe, cases, new_tokens=n) for n in (10, 60))
    assert len(few.bpe.added) == 10
    assert min(few.uses.values()) >= max(
        (n for token, n in many.uses.items() if token not in few.uses), default=0
    )


def test_rare_pairs_are_left(tiny_bpe, cases):
    learned = learn(tiny_bpe, cases, min_frequency=8)
    assert learned.bpe.added
    assert min(learned.uses.values()) >= 8
    assert not learn(tiny_bpe, cases, min_frequency=10_000).bpe.added


def test_longest_token(tiny_bpe, cases):
    short, long = (
        learn(tiny_bpe, cases, new_tokens=200, max_characters=most).uses for most in (2, 16)
    )
    assert max(len(to_text(token) or "") for token in short) == 2
    assert max(len(to_text(token) or "") for token in long) > 4


def test_no_token_ends_within_a_character_after_others(tiny_bpe, cases):
    for token in learn(tiny_bpe, cases, new_tokens=300).bpe.new_ids:
        # A part of one character has at most three bytes, each a letter here.
        assert to_text(token) is not None or len(token) <= 3


def test_token_that_exists_is_not_made_in_another_way(build, expand):
    # `abc` exists and comes of a + bc; the tokenizer makes ab + c of the same letters.
    base = load_byte_bpe(build("a+b", "b+c", "a+bc", "abc+d"), "small")
    texts = ["abcd abce abcf xyz"] * 5
    assert base.encode(["abc"])[0].tokens == ["ab", "c"]
    learned = learn(base, texts)
    assert set(learned.bpe.new_ids) == {"xy", "Ġxy", "Ġxyz"}
    assert expand(learned.bpe, texts) == [e.ids for e in base.encode(texts)]


@pytest.mark.parametrize("texts", [[], ["x"], ["<eos>", "q w e r t"]])
def test_nothing_to_learn(build, texts):
    assert not learn(load_byte_bpe(build("a+b"), "small"), texts).bpe.added


def test_special_tokens_in_text_part_words(build):
    base = load_byte_bpe(build("a+b"), "small")
    learned = learn(base, ["x<eos>y"] * 9)
    assert not learned.bpe.added


def test_same_text_same_tokens_in_every_process(tmp_path):
    code = (
        "import sys, hashlib\n"
        "from posttrain.config.model import ModelConfig\n"
        "from posttrain.models.load import load_tokenizer\n"
        "from posttrain.vocabulary.bpe import load_byte_bpe\n"
        "from posttrain.vocabulary.learn import learn_tokens\n"
        "bpe = load_byte_bpe(load_tokenizer(ModelConfig(path='tiny')), 'tiny')\n"
        "texts = [f'the patient {n % 7} takes metformin {n % 5} times' for n in range(99)]\n"
        "found = learn_tokens(bpe, texts, new_tokens=40, min_frequency=2, max_characters=9)\n"
        "print(found.bpe.added)\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != "()\n"


@pytest.mark.parametrize("name", ["qwen3", "minimind"])
def test_real_tokenizers_on_real_text(shared_data, expand, name):
    from transformers import AutoTokenizer

    base = load_byte_bpe(AutoTokenizer.from_pretrained(shared_data / "tokenizers" / name), name)
    files = ("lunyu_zh.txt", "tang_poems_zh.txt", "tinyshakespeare.txt")
    texts = [(shared_data / "text" / file).read_text()[:20_000] for file in files]
    learned = learn(base, texts, new_tokens=300, min_frequency=3)
    assert len(learned.bpe.added) == 300
    assert expand(learned.bpe, texts) == [e.ids for e in base.encode(texts)]
    assert count(learned.bpe, texts) < 0.95 * count(base, texts)
