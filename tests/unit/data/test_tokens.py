import copy
import json

import pytest
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors

from posttrain.data.records import RowError
from posttrain.data.templates import SHIELD, Piece
from posttrain.data.tokens import build_codec, encode_rendered, stock_codec
from posttrain.data.tokens.agreement import find_doubt
from posttrain.data.tokens.ranks import byte_letters, rank_tokens
from posttrain.data.tokens.runs import pack_ids
from posttrain.data.tokens.structure import (
    BLANKS,
    GPT2,
    PATTERNS,
    QWEN2,
    NotProven,
    SimplePattern,
    Structure,
    atoms,
)
from posttrain.errors import PosttrainError
from posttrain.files import cache_root
from tests.byte_level import CORPUS, build_byte_level

TEXTS = (
    *CORPUS,
    "",
    "\n",
    " ",
    "x  ",
    "  x",
    "\n\n  x \n\t y\r\n\r\n",
    "a\u00a0\u2003 b\u3000\u3000c",
    "\x1c x  \x1dy \x1f\x1f z",
    "it'S 'Ll 've 'ſ'K",
    "e\u0301 ﬁ Å \u1100\u1161\u11a8 \u0344",
    "<|end|><|start|>user\nhi<|end|>\n",
    "<|end|", "<<|end|>>", "🙂👩‍👩‍👧 \U0001f9ff \u0378 \U0010fffd",
    "longword" * 200 + " " * 300 + "x" + "\n" * 50,
)  # fmt: skip


def stock_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def qwen(cache_dir):
    return build_byte_level(QWEN2, nfc=True)


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_gives_the_tokenizers_ids(name):
    tokenizer = build_byte_level(None if name == "gpt2" else PATTERNS[name], nfc=name == "qwen2")
    codec = build_codec(tokenizer)

    assert (codec.name, codec.reason) == ("tiktoken", "")
    for text in TEXTS:
        assert codec.encode(text) == stock_ids(tokenizer, text), text


def test_a_token_that_looks_like_a_part_of_the_tokenizers_file_is_a_token():
    tokenizer = build_byte_level(QWEN2)
    tokenizer.add_tokens([AddedToken(',"model":', normalized=False)])
    structure = Structure.read(tokenizer)
    codec = build_codec(tokenizer)

    assert {**structure.parts, "model": structure.model} == structure.state
    assert codec.name == "tiktoken"
    text = 'see ,"model":{} here'
    assert codec.encode(text) == stock_ids(tokenizer, text)


def test_a_special_token_named_model_is_not_taken_for_the_model():
    tokenizer = build_byte_level(QWEN2, added=["end", "model"])
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("end", "model")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="end $A model", special_tokens=special
    )
    structure = Structure.read(tokenizer)
    codec = build_codec(tokenizer)

    assert ',"model":' in json.dumps(structure.parts["post_processor"], separators=(",", ":"))
    assert {**structure.parts, "model": structure.model} == structure.state
    assert codec.name == "tiktoken"
    assert codec.encode("see the model here") == stock_ids(tokenizer, "see the model here")


def test_ids_that_are_not_in_the_order_of_merges_are_mapped_back():
    merges = [("a", "b"), ("c", "d"), ("ab", "cd"), ("b", "c")]
    tokens = [*byte_letters(), "abcd", "bc", "cd", "ab"]
    tokenizer = build_byte_level(QWEN2, merges=merges, tokens=tokens[::-1])
    codec = build_codec(tokenizer)

    assert codec.name == "tiktoken"
    for text in ("abcd", "abc", "bcd", "aabbccdd", "abcabcd", "ab cd"):
        assert codec.encode(text) == stock_ids(tokenizer, text)


def test_token_that_its_own_merges_do_not_make_is_left_out():
    # "abc" would be made of ab and c, but b and c are joined first.
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    tokenizer = build_byte_level(QWEN2, merges=merges)
    ranks = rank_tokens(Structure.read(tokenizer))
    codec = build_codec(tokenizer)

    assert codec.name == "tiktoken"
    assert tokenizer.convert_tokens_to_ids("abc") not in ranks.merged
    for text in ("abc", "xabcx", "aabc", "ab c", "abbc"):
        assert codec.encode(text) == stock_ids(tokenizer, text)
    assert tokenizer.convert_tokens_to_ids("abc") not in codec.encode("abc")


def test_token_with_two_pairs_has_the_rank_of_the_one_that_makes_it():
    merges = [("a", "b"), ("x", "y"), ("b", "c"), ("a", "bc"), ("p", "q"), ("ab", "c")]
    tokenizer = build_byte_level(QWEN2, merges=merges)
    ranks = rank_tokens(Structure.read(tokenizer))
    names = tokenizer.convert_ids_to_tokens(ranks.merged)

    assert names == ["ab", "xy", "bc", "pq", "abc"]
    codec = build_codec(tokenizer)
    for text in ("abc", "xabcpq", "bcabc", "abxyc"):
        assert codec.encode(text) == stock_ids(tokenizer, text)


def test_whole_words_that_are_tokens_are_taken_as_such_where_the_model_does_so():
    # Three parts are left of "wxyz": its parts never stand side by side, so it may be ranked.
    merges = [("x", "y"), ("a", "b")]
    tokens = [*byte_letters(), "xy", "ab", "wxyz"]
    tokenizer = build_byte_level(QWEN2, merges=merges, tokens=tokens, ignore_merges=True)
    codec = build_codec(tokenizer)

    assert codec.name == "tiktoken"
    assert codec.encode("wxyz") == [tokenizer.convert_tokens_to_ids("wxyz")]
    for text in ("wxyz", "awxyz", "wxyzb", " wxyz", "wxyz wxyz"):
        assert codec.encode(text) == stock_ids(tokenizer, text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": [*byte_letters(), "xy", "wxy"], "ignore_merges": True}, "whole word only"),
        ({"tokens": [*list(byte_letters())[:-100], "xy"]}, "has no token"),
        ({"dropout": 0.5}, "not byte-level BPE alone"),
    ],
)
def test_models_that_cannot_be_proven_are_not_fast(change, reason):
    tokenizer = build_byte_level(QWEN2, merges=[("x", "y")], **change)
    codec = build_codec(tokenizer)

    assert codec.name == "tokenizers"
    assert reason in codec.reason
    if "dropout" not in change:
        for text in ("wxy", "xwxy", "wxy wxy"):
            assert codec.encode(text) == stock_ids(tokenizer, text)


def replace_part(tokenizer, **parts):
    changed = copy.deepcopy(tokenizer)
    for name, part in parts.items():
        setattr(changed.backend_tokenizer, name, part)
    return changed


LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"normalizer": normalizers.NFKC()}, "the normalizer is NFKC"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "not read as bytes"),
        ({"pre_tokenizer": LEVEL}, "not cut by one pattern"),
        (
            {
                "pre_tokenizer": pre_tokenizers.Sequence(
                    [pre_tokenizers.Split(Regex(r"\s+"), "isolated"), LEVEL]
                )
            },
            "has not been compared",
        ),
        (
            {
                "pre_tokenizer": pre_tokenizers.Sequence(
                    [pre_tokenizers.Split(Regex(QWEN2), "removed"), LEVEL]
                )
            },
            "has not been compared",
        ),
    ],
)
def test_parts_that_have_not_been_compared_are_not_fast(qwen, parts, reason):
    tokenizer = replace_part(qwen, **parts)
    codec = build_codec(tokenizer)

    assert codec.name == "tokenizers"
    assert reason in codec.reason
    for text in TEXTS:
        assert codec.encode(text) == stock_ids(tokenizer, text), text


@pytest.mark.parametrize(
    "added",
    [
        [AddedToken("<sep>", lstrip=True, special=True)],
        [AddedToken("<sep>", rstrip=True, special=True)],
        [AddedToken("sep", single_word=True, special=True)],
        [AddedToken("SEP", normalized=True, special=True)],
    ],
)
def test_added_tokens_that_look_around_leave_all_to_the_tokenizer(added):
    tokenizer = build_byte_level(QWEN2, nfc=True, added=added)
    codec = build_codec(tokenizer)

    assert codec.name == "tokenizer"
    for text in ("a <sep> b", "a sep b", "asepb", "SEP SE\u0301P", *TEXTS):
        assert codec.encode(text) == stock_ids(tokenizer, text)
    with pytest.raises(RowError, match="special token"):
        codec.encode(f"<{SHIELD}|end|>")


def test_added_tokens_that_start_or_hold_one_another_are_found_as_the_tokenizer_does():
    added = ["<|e", "<|end|>x", "d|><", "||", "|||", "<|start|><|end|>"]
    tokenizer = build_byte_level(QWEN2, added=added)
    codec = build_codec(tokenizer)

    assert codec.name == "tiktoken"
    for text in (
        "<|end|>x", "<|end|>", "<|en", "<|end|><|end|>", "|||||", "||||", "<|start|><|end|>x",
        "<|start|><|en", "end|><|", "<|e<|end|>",
    ):  # fmt: skip
        assert codec.encode(text) == stock_ids(tokenizer, text), text


def test_tokens_of_two_kinds_that_may_overlap_leave_all_to_the_tokenizer():
    tokenizer = build_byte_level(QWEN2, added=[AddedToken("end|>!", normalized=True)])
    assert build_codec(tokenizer).name == "tokenizer"
    text = "<|end|>!"
    assert build_codec(tokenizer).encode(text) == stock_ids(tokenizer, text)


def test_shielded_text_is_encoded_as_words(qwen):
    token = qwen.convert_tokens_to_ids("<|end|>")
    for codec in (build_codec(qwen), stock_codec(qwen)):
        ids = codec.encode(f"say <{SHIELD}|end|> now<|end|>")
        assert ids.count(token) == 1
        assert ids[-1] == token
        assert qwen.decode(ids) == "say <|end|> now<|end|>"
    assert encode_rendered(f"say <{SHIELD}|end|> now<|end|>", qwen) == ids
    assert encode_rendered("say<|end|>", qwen) == stock_ids(qwen, "say<|end|>")


@pytest.mark.parametrize("build", [build_codec, stock_codec])
def test_half_a_character_is_a_reason_and_no_crash(qwen, build):
    with pytest.raises(RowError, match="not valid Unicode"):
        build(qwen).encode("half \ud83d of it")


def test_a_million_blanks_are_no_trouble(qwen):
    text = "x" + " " * 1_000_100 + "y"
    assert build_codec(qwen).encode(text) == stock_codec(qwen).encode(text)


def test_verdict_is_kept_and_a_changed_tokenizer_has_another(qwen):
    build_codec(qwen)
    folder = cache_root() / "encoders"
    before = set(folder.iterdir())
    build_codec(qwen)
    assert set(folder.iterdir()) == before
    changed = copy.deepcopy(qwen)
    changed.add_tokens(["<new>"], special_tokens=True)
    assert build_codec(changed).encode("a<new>") == stock_ids(changed, "a<new>")
    assert len(set(folder.iterdir()) - before) == 1


def shift(text):
    """Give the finding another first number, in the same shape."""
    kept = json.loads(text)
    numbers = kept["value"]["singles"] if "singles" in kept["value"] else kept["value"][0]
    numbers[0] += 1
    return json.dumps(kept)


@pytest.mark.parametrize(
    "spoil",
    [
        *(
            (lambda _, content=content: content)
            for content in ["", '{"value": [', "\udcff", "{}", "[]", "5", "null", '{"reason": "x"}']
        ),
        lambda text: json.dumps(json.loads(text)["value"]),
        lambda text: json.dumps({**json.loads(text), "value": {}}),
        shift,
    ],
)
def test_a_verdict_that_is_not_as_it_was_written_is_found_anew(qwen, tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path))
    find_doubt.cache_clear()
    build_codec(qwen)
    kept = sorted((tmp_path / "encoders").iterdir())
    assert [path.name.split("-")[0] for path in kept] == ["characters", "ranks"]
    whole = [path.read_bytes() for path in kept]
    for path in kept:
        path.write_text(spoil(path.read_text()), errors="surrogateescape")
    find_doubt.cache_clear()
    assert build_codec(qwen).name == "tiktoken"
    assert [path.read_bytes() for path in kept] == whole


def test_a_cache_that_cannot_be_written_is_one_line(qwen, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(PosttrainError, match=r"cannot write .*; choose another place"):
        build_codec(qwen)


def test_a_difference_in_a_spot_check_is_reported(qwen):
    codec = build_codec(qwen)
    codec.sample_every = 1
    codec.encode("the tokenizer agrees")
    assert codec.take_samples().differing == ()
    codec._added = dict.fromkeys(codec._added, pack_ids([7]))
    codec.encode("and now<|end|> it does not")
    samples = codec.take_samples()
    assert (samples.checked, samples.differing) == (1, ("and now<|end|> it does not",))
    assert codec.take_samples().checked == 0


def test_characters_that_python_does_not_know_are_in_doubt():
    doubt = find_doubt(atoms(QWEN2), nfc=True)
    assert not any(map(doubt.holds, "".join(CORPUS) + "🙂👍 ∫ 𝒙 한국어 ไทย"))
    unknown = "\u0378\ufdd0\U0010ffff\U000f0000\ud800"
    assert all(map(doubt.holds, unknown))
    assert doubt.odd.findall(f"a{unknown}é\u3000中🙂") == [*unknown, "\u3000", "🙂"]


def test_classes_of_a_pattern_are_found():
    assert atoms(GPT2) == (r"\S", r"\p{L}", r"\p{N}", r"\s")
    folded = {f"(?i:{c})" for c in "strevmld"}
    assert set(atoms(QWEN2)) == {r"\S", r"\p{L}", r"\p{N}", r"\s", *folded}


def test_cuts_stand_before_the_last_blank():
    def cut(text, pattern):
        simple = SimplePattern.of(pattern)
        places = [found.start() + 1 for found in simple.cuts.finditer(text)]
        assert not places or any(sign in text for sign in simple.signs)
        return places

    assert cut("a   b", QWEN2) == [3]
    assert cut("a\n\n\nb", QWEN2) == []
    assert cut("a\n\n\nb", GPT2) == [3]
    assert cut("a \n  b  ", QWEN2) == [4]
    assert len(BLANKS) == 25


def test_slow_and_odd_tokenizers_are_left_to_themselves():
    class Slow:
        is_fast = False

    with pytest.raises(NotProven, match="written in Python"):
        Structure.read(Slow())


def pieces(*parts):
    return [Piece(text, weight) for text, weight in parts]


@pytest.mark.parametrize("build", [build_codec, stock_codec])
def test_pieces_have_the_ids_of_the_whole_and_their_own_weights(qwen, build):
    parts = pieces(("<|start|>assistant\n", 0), ("Hi  there.<|end|>", 0.5), ("\nmore", 2))
    made = build(qwen).encode_pieces(parts)
    whole = "".join(piece.text for piece in parts)

    assert made.token_ids.tolist() == stock_ids(qwen, whole)
    assert not made.retokenized
    for weight, text in ((0, parts[0].text), (0.5, parts[1].text), (2, parts[2].text)):
        assert qwen.decode(made.token_ids[made.weights == weight].tolist()) == text


@pytest.mark.parametrize("build", [build_codec, stock_codec])
def test_a_prompt_keeps_its_ids_where_a_token_would_lie_across_its_end(qwen, build):
    prompt, answer = "<|start|>assistant\n", "\n\nx<|end|>"
    made = build(qwen).encode_pieces(pieces((prompt, 0), (answer, 1)))

    alone = stock_ids(qwen, prompt)
    assert stock_ids(qwen, prompt + answer)[: len(alone)] != alone
    assert made.retokenized
    expected = alone + stock_ids(qwen, answer)
    assert made.token_ids.tolist() == expected
    assert made.weights.tolist() == [0] * len(alone) + [1] * (len(expected) - len(alone))


def test_a_token_across_the_start_of_an_earlier_turn_belongs_to_where_it_starts(qwen):
    parts = pieces(("assistant\n", 0), ("\n\nx<|end|>", 1), ("\nassistant\n", 0), ("y<|end|>", 1))
    made = build_codec(qwen).encode_pieces(parts)

    assert made.token_ids.tolist() == stock_ids(qwen, "".join(p.text for p in parts))
    assert not made.retokenized
    runs = qwen.decode(made.token_ids[made.weights == 1].tolist())
    assert runs == "x<|end|>y<|end|>"


def test_place_of_a_given_prompt_counts_where_all_is_trained(qwen):
    parts = pieces(("<|start|>assistant\n", 1), ("\n\nx<|end|>", 1))
    codec = build_codec(qwen)

    assert not codec.encode_pieces(parts).retokenized
    made = codec.encode_pieces(parts, last=1)
    assert made.retokenized
    prompt = stock_ids(qwen, parts[0].text)
    assert made.token_ids[: len(prompt)].tolist() == prompt


def test_shields_do_not_shift_the_weights(qwen):
    text = f"a <{SHIELD}|end|>\n"
    parts = pieces((text, 0), (f"\n<{SHIELD}|start|> b<|end|>", 1), ("c", 0), ("d<|end|>", 1))
    made = build_codec(qwen).encode_pieces(parts)

    assert qwen.decode(made.token_ids.tolist()) == "a <|end|>\n\n<|start|> b<|end|>cd<|end|>"
    assert qwen.decode(made.token_ids[made.weights == 1].tolist()).endswith(
        "<|start|> b<|end|>d<|end|>"
    )


def test_real_tokenizers_are_fast(shared_data):
    from transformers import AutoTokenizer

    minimind = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "minimind")
    assert build_codec(minimind).name == "tiktoken"
    vectors = shared_data / "tokenizers" / "vectors" / "ggml-vocab-qwen2.gguf.inp"
    *texts, _ = vectors.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    wanted = [
        [int(number) for number in line.split()]
        for line in vectors.with_suffix(".out").read_text().splitlines()
    ]
    qwen3 = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "qwen3")
    codec = build_codec(qwen3)
    assert codec.name == "tiktoken"
    assert len(texts) == len(wanted) > 40
    assert [codec.encode(text) for text in texts] == wanted
    assert json.loads(qwen3.backend_tokenizer.to_str())["normalizer"] == {"type": "NFC"}
