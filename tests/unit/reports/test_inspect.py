import hashlib
import html
import re
from base64 import b64encode

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from posttrain.data.store import ExampleStore
from posttrain.errors import DataError
from posttrain.reports.formatting import make_visible
from posttrain.reports.inspect import build_inspect_page, collect_examples, render_example


class ByteTokenizer:
    """One token per byte and one special token, with the two methods that are needed."""

    def __init__(self):
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        model = models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
        self.backend = Tokenizer(model)
        self.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.backend.decoder = decoders.ByteLevel()
        self.backend.add_special_tokens([AddedToken("<|end|>", special=True)])
        self.added_tokens_decoder = self.backend.get_added_tokens_decoder()

    def encode(self, text):
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.backend.decode(ids, skip_special_tokens=False)

    def convert_ids_to_tokens(self, ids):
        return [self.backend.id_to_token(i) for i in ids]


class SpaceDroppingTokenizer:
    """Words that begin with ▁; decoding drops the first space, as SentencePiece does."""

    words = ("▁the", "▁cat", "s")

    def decode(self, ids):
        return "".join(self.words[i] for i in ids).replace("▁", " ").removeprefix(" ")

    def convert_ids_to_tokens(self, ids):
        return [self.words[i] for i in ids]


TOKENIZER = ByteTokenizer()


def make_store(*parts):
    """A store of examples, each a list of (text or ids, trained)."""
    ids, trained, lengths = [], [], []
    for example in parts:
        before = len(ids)
        for text, mark in example:
            encoded = TOKENIZER.encode(text) if isinstance(text, str) else text
            ids += encoded
            trained += [mark] * len(encoded)
        lengths.append(len(ids) - before)
    return ExampleStore(
        np.array(ids, dtype=np.int32),
        np.array(trained, dtype=bool),
        np.cumsum([0, *lengths]),
        np.array([(0, 10 + i) for i in range(len(parts))], dtype=np.int64),
        ("train.jsonl",),
    )


def collect_one(*parts):
    return collect_examples(make_store(list(parts)), TOKENIZER, [0])[0]


def test_characters_of_many_tokens_stay_readable():
    example = collect_one(("苹果a😀é", False))
    assert [t.text for t in example.tokens] == [
        *("", "", "苹", "", "", "果", "a", "", "", "", "😀", "", "é"),
    ]
    assert example.tokens[0].visible == "·"
    assert example.text == "苹果a😀é"


@pytest.mark.parametrize(
    "text", ["a\n\n b  c", "mixed 中文 and 日本語 🎉!", "\ufffd real", "x\ufffd"]
)
def test_tokens_together_are_the_whole_text(text):
    assert collect_one((text, True)).text == text


def test_half_a_character_before_a_special_token_does_not_hide_it():
    example = collect_one((TOKENIZER.encode("苹")[:2], False), ("<|end|>", True), ("b", False))
    assert [t.text for t in example.tokens] == ["", "\ufffd", "<|end|>", "b"]
    assert [t.special for t in example.tokens] == [False, False, True, False]


def test_bytes_of_no_character_do_not_swallow_what_follows():
    stray = TOKENIZER.encode("é")[1:] * 9
    example = collect_one((stray, False), ("ok", False))
    assert example.text.endswith("ok")
    assert example.text.count("\ufffd") == 9
    assert example.tokens[3].text != ""


def test_token_that_ends_one_character_and_begins_the_next():
    class Merged(ByteTokenizer):
        def decode(self, ids):
            return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")

        def convert_ids_to_tokens(self, ids):
            return [repr(self.pieces[i]) for i in ids]

        pieces = (b"\xe8\x8b", b"\xb9\xe6\x9e", b"\x9c")  # 苹果 cut across

    store = make_store([([0, 1, 2], False)])
    example = collect_examples(store, Merged(), [0])[0]
    assert [t.text for t in example.tokens] == ["", "苹", "果"]


def test_spaces_that_a_tokenizer_drops_at_the_start_are_kept_inside():
    store = make_store([([0, 1, 2, 1], False)])
    example = collect_examples(store, SpaceDroppingTokenizer(), [0])[0]
    assert [t.text for t in example.tokens] == ["the", " cat", "s", " cat"]


def test_examples_know_their_origin_and_counts():
    store = make_store([("ab", False)], [("abc", False), ("de<|end|>", True)])
    last = collect_examples(store, TOKENIZER, [-1])[0]
    assert (last.index, last.origin, last.trained_tokens) == (1, "train.jsonl:11", 3)
    assert last.header == "train.jsonl:11: 6 tokens, 3 trained (50 %)"


def test_example_that_is_not_there_is_refused():
    with pytest.raises(DataError, match="no example 1: the data has 1"):
        collect_examples(make_store([("a", True)]), TOKENIZER, [1])


def test_trained_runs_are_marked_where_there_are_no_styles():
    example = collect_one(("ask ", False), ("yes<|end|>", True), ("\nok", False))
    text = render_example(example.tokens, markers=True).plain
    assert text.startswith("ask␣⟦yes<|end|>⟧⏎\nok\n")
    assert "trained: ⟦ ⟧" in text


def test_trained_runs_are_underlined_in_a_terminal():
    example = collect_one(("ask", False), ("yes", True))
    text = render_example(example.tokens, markers=False)
    assert "⟦" not in text.plain
    start = text.plain.index("yes")
    styled = [s for s in text.spans if s.start < start + 3 and "underline" in str(s.style)]
    assert {(s.start, s.end) for s in styled} == {(start + i, start + i + 1) for i in range(3)}
    assert "trained: underlined" in text.plain


def test_markers_are_used_where_output_is_no_terminal(capsys):
    assert "⟦" in render_example(collect_one(("a", True)).tokens).plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" hello", " hello"),
        ("hello ", "hello␣"),
        ("  a", "␣␣a"),
        ("a b", "a b"),
        (" ", "␣"),
        ("\t", "⇥"),
        (" \n", "␣⏎\n"),
        ("\x1b[0m", "␛[0m"),
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("\u202e", "⟨U+202E⟩"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text, shown):
    assert make_visible(text) == shown


def read_page(tmp_path, *examples):
    store = make_store(*examples)
    found = collect_examples(store, TOKENIZER, range(len(examples)))
    return build_inspect_page(found, tmp_path / "inspect.html").read_text(encoding="utf-8")


def test_page_has_a_span_with_id_and_state_for_every_token(tmp_path):
    page = read_page(tmp_path, [("苹", False), ("b<|end|>", True)])
    spans = re.findall(r'<span title="([^"]*)"( class="[^"]*")?>([^<]*)</span>', page)
    assert len(spans) == 5
    assert spans[0][2] == "·"
    assert spans[2][2] == "苹"
    assert "not trained" in spans[2][0]
    b = TOKENIZER.encode("b")[0]
    assert html.unescape(spans[3][0]) == f"#3  id {b}  b  trained"
    assert "t " in spans[3][1]
    assert "s " in spans[4][1]
    assert "train.jsonl:10" in page
    assert "5 tokens, 2 trained" in page


def test_page_escapes_text_and_runs_only_its_own_script(tmp_path):
    page = read_page(tmp_path, [('"><script>alert(1)</script>', True)])
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert len(scripts) == 1
    digest = b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(page)
    assert "alert(1)" not in scripts[0]
    assert re.search(r"https?://", page) is None


def test_page_of_no_examples_can_be_made(tmp_path):
    page = build_inspect_page([], tmp_path / "p.html").read_text(encoding="utf-8")
    assert "0 examples" in page
