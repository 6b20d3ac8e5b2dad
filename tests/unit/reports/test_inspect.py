import hashlib
import html
import re
from base64 import b64encode

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from posttrain.data.store import ExampleStore
from posttrain.errors import DataError
from posttrain.layout import build_batch
from posttrain.reports.formatting import make_visible
from posttrain.reports.inspect import (
    build_inspect_page,
    collect_batch,
    collect_examples,
    render_batch,
    render_example,
)


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
    """A store of examples, each a list of (text or ids, weight)."""
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
        np.array(trained, dtype=np.float32),
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
    assert text.startswith("a╎s╎k╎␣⟦y╎e╎s╎<|end|>⟧⏎\no╎k\n")
    assert "trained: ⟦ ⟧" in text


def test_other_loss_weights_are_written_where_there_are_no_styles():
    example = collect_one(("a", 0), ("b", 0.5), ("c", 1), ("d", 2))
    text = render_example(example.tokens, markers=True).plain
    assert text.startswith("a⟦×0.5 b⟧⟦c⟧⟦×2 d⟧\n")
    assert "with loss weight: ⟦×0.5 ⟧ (0.5, 2)" in text


def test_trained_runs_are_underlined_in_a_terminal():
    example = collect_one(("ask", False), ("yes", True))
    text = render_example(example.tokens, markers=False)
    assert "⟦" not in text.plain
    assert text.plain.startswith("a╎s╎k╎y╎e╎s\n")
    styled = [s for s in text.spans if s.start < 12 and "underline" in str(s.style)]
    assert [text.plain[s.start : s.end] for s in styled] == ["y", "e", "s"]


def test_other_loss_weights_have_a_colour_of_their_own():
    text = render_example(collect_one(("a", 1), ("b", 0.5)).tokens, markers=False)
    styles = {text.plain[s.start : s.end]: str(s.style) for s in text.spans}
    assert "green" in styles["a"]
    assert "yellow" in styles["b"]
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
    assert [spans[i][1] for i in (2, 3, 4)] == ["", ' class="t"', ' class="t s"']
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


def test_page_shades_other_weights_and_tells_them(tmp_path):
    page = read_page(tmp_path, [("a", 0), ("b", 0.5), ("c", 3)])
    spans = re.findall(r'<span title="([^"]*)" class="w" style="--w:([^"]*)">([^<]*)</span>', page)
    assert [(weight, text) for _, weight, text in spans] == [("0.5", "b"), ("2", "c")]
    assert "loss weight 3" in spans[1][0]  # the shade ends at 2, the number does not
    assert ">weight 0.5</span>" in page


def test_text_that_looks_special_is_plain(tmp_path):
    text = TOKENIZER.encode("<") + TOKENIZER.encode("|end|>")
    example = collect_one((text, False), ("<|end|>", True))
    assert [token.special for token in example.tokens] == [False] * 7 + [True]
    page = read_page(tmp_path, [(text, False), ("<|end|>", True)])
    assert re.findall(r'class="([^"]*)"[^>]*>&lt;\|end\|&gt;</span>', page) == ["t s"]


def test_page_holds_trained_and_untrained_text_apart(tmp_path):
    page = read_page(tmp_path, [("ask", 0), ("yes", 1), ("and", 0), ("no", 1)])
    assert 'data-text="askyesandno"' in page
    assert 'data-trained="yes\nno"' in page
    assert 'data-untrained="ask\nand"' in page


def make_pairs():
    """Two trees of a prompt with two answers, and a plain example."""
    parts = [("ask", 0), ("yes", 1), ("no", 1), ("which", 0), ("a", 1), ("bb", 1), ("xy", 0)]
    store = make_store(parts[:3], parts[3:6], parts[6:])
    lengths = [len(text) for text, _ in parts]
    parents = [-1, 0, 0, -1, 0, 0, -1]
    return ExampleStore(
        store.token_ids,
        store.weights,
        store.offsets,
        store.places,
        store.files,
        np.array([0, 3, 6, 7]),
        np.array(list(zip(lengths, parents, strict=True))),
    )


def test_segments_of_a_batch_are_where_training_puts_them():
    store, order = make_pairs(), [1, 2, 0]
    views = [s for e in collect_batch(store, TOKENIZER, order) for s in e.segments]
    batch = build_batch([segment for tree in store.forest(order) for segment in tree])
    table, positions = batch["segments"], batch["position_ids"][0]

    assert tuple(view.start for view in views) == table.starts
    assert tuple(len(view.tokens) for view in views) == table.lengths
    assert tuple(view.parent for view in views) == table.parents
    assert [view.position for view in views] == [int(positions[s]) for s in table.starts]
    assert [list(view.ancestors) for view in views] == [table.ancestors(i) for i in range(7)]
    assert [t.token_id for v in views for t in v.tokens] == batch["input_ids"][0].tolist()
    assert [e.origin for e in collect_batch(store, TOKENIZER, order)] == [
        "train.jsonl:11",
        "train.jsonl:12",
        "train.jsonl:10",
    ]


def test_terminal_shows_where_segments_begin_and_what_they_see():
    text = render_batch(collect_batch(make_pairs(), TOKENIZER, [0, 2]), markers=True).plain
    lines = text.splitlines()

    assert lines[0] == "── segment 0: tokens 0–2, positions 0–2, sees what is before it"
    assert (
        "  ── segment 2, continues segment 0: tokens 6–7, positions 3–4, sees what is before it "
        "and all of segment 0"
    ) in lines
    assert "   train.jsonl:12, example 2" in lines
    assert sum(line.startswith("trained: ") for line in lines) == 1


def test_encoder_segments_see_themselves_both_ways():
    (example,) = collect_batch(make_store([("abc", 0)]), TOKENIZER, [0], causal=False)
    assert example.segments[0].header.endswith("sees itself both ways")


def test_batch_page_draws_what_attention_may_see(tmp_path):
    examples = collect_batch(make_pairs(), TOKENIZER, [0, 2])
    page = build_inspect_page(examples, tmp_path / "p.html", batch=4).read_text(encoding="utf-8")

    assert "<h1>Batch 4</h1>" in page
    assert [p.split()[0] for p in re.findall(r'points="([^"]*)"', page)] == [
        *("0,0", "3,3", "6,6", "8,8"),
    ]
    above = re.findall(r'class="above" x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', page)
    assert above == [("0", "3", "3", "3"), ("0", "6", "3", "2")]
    assert len(re.findall(r'<article class="card example segment child"', page)) == 2
