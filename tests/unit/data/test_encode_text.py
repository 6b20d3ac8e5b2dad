import copy
from collections import namedtuple

import numpy as np
import pytest
from tokenizers import AddedToken, processors

from posttrain.config.data import TextDataConfig
from posttrain.data.encoders import TextEncoder
from posttrain.data.prepare import prepare_data
from posttrain.data.records import Origin, Record, Text
from posttrain.data.store import gather_blocks
from posttrain.errors import DataError
from tests.encoders import build_wordpiece

Block = namedtuple("Block", "token_ids trained line")
TEXTS = ("The cat sat.", "A dog ran far away over the hills.", "Hens.")


def records(*texts):
    return [Record(Text(text), Origin("t.txt", line)) for line, text in enumerate(texts, start=1)]


def encode(tokenizer, *texts, **settings):
    config = TextDataConfig(sources=[{"path": "t.txt"}], **settings)
    encoder = TextEncoder(config, tokenizer)
    documents = gather_blocks(encoder.encode(records(*texts)), {"t.txt": 0})
    return [
        Block(block.token_ids[a:b], block.weights[a:b] != 0, line)
        for block in encoder.finish(documents)
        for a, b, (_, line) in zip(
            np.cumsum([0, *block.lengths[:-1]]), np.cumsum(block.lengths), block.places, strict=True
        )
    ]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_joined_documents_are_cut_into_full_blocks_and_nothing_is_lost(tiny_tokenizer):
    blocks = encode(tiny_tokenizer, *TEXTS, block_tokens=8)
    end = tiny_tokenizer.eos_token_id
    stream = [token for text in TEXTS for token in (*ids(tiny_tokenizer, text), end)]
    joined = np.concatenate([block.token_ids for block in blocks]).tolist()
    assert joined == stream
    assert [len(block.token_ids) for block in blocks[:-1]] == [8] * (len(blocks) - 1)
    for block in blocks:
        assert block.trained.tolist() == [False] + [True] * (len(block.token_ids) - 1)


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize("block_tokens", range(3, 24))
def test_tokens_in_are_tokens_trained_and_the_first_of_each_block(
    tiny_tokenizer, block_tokens, join
):
    blocks = encode(tiny_tokenizer, *TEXTS, block_tokens=block_tokens, join=join)
    tokens = sum(len(ids(tiny_tokenizer, text)) + 1 for text in TEXTS)
    assert tokens == sum(int(block.trained.sum()) for block in blocks) + len(blocks)
    assert all(2 <= len(block.token_ids) <= block_tokens for block in blocks)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_it_does_not_matter_in_what_portions_documents_come(tiny_tokenizer, size):
    config = TextDataConfig(sources=[{"path": "t.txt"}], block_tokens=7)
    encoder = TextEncoder(config, tiny_tokenizer)
    examples = list(encoder.encode(records(*TEXTS * 3)))
    portions = [examples[i : i + size] for i in range(0, len(examples), size)]

    def cut(parts):
        found = [block for part in parts for block in gather_blocks(part, {"t.txt": 0})]
        made = list(encoder.finish(found))
        return [
            np.concatenate([getattr(block, name) for block in made]).tolist()
            for name in ("token_ids", "lengths", "places")
        ]

    assert cut(portions) == cut([examples])


def test_a_block_knows_the_document_in_which_it_starts(tiny_tokenizer):
    first, second, third = (len(ids(tiny_tokenizer, text)) + 1 for text in TEXTS)
    blocks = encode(tiny_tokenizer, *TEXTS, block_tokens=8)
    starts = np.cumsum([0, *(len(block.token_ids) for block in blocks[:-1])])
    expected = [1 + int(s >= first) + int(s >= first + second) for s in starts]
    assert [block.line for block in blocks] == expected
    assert len(set(expected)) > 1
    assert third > 0


def test_documents_by_themselves_keep_their_ends(tiny_tokenizer):
    blocks = encode(tiny_tokenizer, *TEXTS, block_tokens=64, join=False)
    end = tiny_tokenizer.eos_token_id
    assert [b.token_ids.tolist() for b in blocks] == [
        [*ids(tiny_tokenizer, text), end] for text in TEXTS
    ]


def test_a_begin_token_that_the_tokenizer_writes_begins_every_document(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    begin = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    (block,) = encode(tokenizer, *TEXTS[::2], block_tokens=64)
    expected = [
        t for text in TEXTS[::2] for t in (begin, *ids(tokenizer, text), tokenizer.eos_token_id)
    ]
    assert block.token_ids.tolist() == expected


@pytest.mark.parametrize("join", [True, False])
def test_an_encoder_gets_its_marks_around_every_block(join):
    tokenizer = build_wordpiece(TEXTS)
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    blocks = encode(tokenizer, *TEXTS, block_tokens=9, join=join)
    for block in blocks:
        found = block.token_ids.tolist()
        assert (found[0], found[-1]) == (begin, end)
        assert found[-2] != end
        assert len(found) <= 9
    if not join:
        short = tokenizer(TEXTS[0])["input_ids"]
        assert blocks[0].token_ids.tolist() == short[:8] + [end] * (len(short) > 8) or short
    inner = [t for block in blocks for t in block.token_ids.tolist() if t not in (begin, end)]
    assert inner == [t for text in TEXTS for t in ids(tokenizer, text)]


def test_a_tokenizer_without_an_end_token_is_refused(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end token to part documents with; set eos_token"):
        encode(tokenizer, *TEXTS)


def test_blocks_with_no_room_between_the_marks_are_refused():
    with pytest.raises(DataError, match=r"block_tokens: 2 leaves no room .* make it at least 3"):
        encode(build_wordpiece(TEXTS), *TEXTS, block_tokens=2)


def test_a_block_without_a_token_to_predict_is_refused(tiny_tokenizer):
    with pytest.raises(DataError, match=r"block_tokens: 2 leaves no room .* make it at least 3"):
        encode(tiny_tokenizer, *TEXTS, block_tokens=2)
    assert encode(tiny_tokenizer, *TEXTS, block_tokens=3)


@pytest.mark.parametrize("block_tokens", range(3, 24))
def test_no_document_by_itself_loses_its_end(tiny_tokenizer, block_tokens):
    blocks = encode(tiny_tokenizer, *TEXTS, block_tokens=block_tokens, join=False)
    for line, text in enumerate(TEXTS, start=1):
        found = [block.token_ids.tolist() for block in blocks if block.line == line]
        expected = [*ids(tiny_tokenizer, text), tiny_tokenizer.eos_token_id]
        joined = [token for block in found for token in block]
        assert joined == expected
        assert all(2 <= len(block) <= block_tokens for block in found)


@pytest.mark.parametrize("join", [True, False])
def test_a_split_without_documents_has_no_blocks(tiny_tokenizer, join):
    encoder = TextEncoder(
        TextDataConfig(sources=[{"path": "t.txt"}], join=join, block_tokens=8), tiny_tokenizer
    )
    documents = list(gather_blocks(encoder.encode(records(*TEXTS)), {"t.txt": 0}))
    empty = [block.select(np.zeros(len(block), bool)) for block in documents]
    assert list(encoder.finish(empty)) == []
    around = [*empty, *documents, *empty]
    whole, parted = (list(encoder.finish(blocks)) for blocks in (documents, around))
    assert [b.token_ids.tolist() for b in whole] == [b.token_ids.tolist() for b in parted]


def test_special_tokens_in_a_document_are_text(tiny_tokenizer):
    text = "the token <|im_end|> is text and <|endoftext|> too"
    (block,) = encode(tiny_tokenizer, text, block_tokens=64)
    *found, end = block.token_ids.tolist()
    assert end == tiny_tokenizer.eos_token_id
    assert not set(found) & set(tiny_tokenizer.all_special_ids)
    assert tiny_tokenizer.decode(found) == text


def test_documents_that_cannot_be_read_as_text_are_a_reason(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    encoder = TextEncoder(TextDataConfig(sources=[{"path": "t.txt"}]), tokenizer)
    shown, plain, odd = encoder.encode(records("a <|im_end|> b", "a b", "a \ufdd2 b"))
    assert shown.reason == "a text holds a special token"
    assert plain.token_ids.tolist() == [*ids(tokenizer, "a b"), tokenizer.eos_token_id]
    assert odd.reason == "a text holds a noncharacter"
    assert odd.detail == "the document: one of U+FDD0 to U+FDD2"


def test_mixed_sources_share_no_block(write, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    large = write("large.jsonl", [{"text": text} for text in TEXTS * 3])
    small = write("small.jsonl", [{"text": "Small."}])

    def prepare(**settings):
        sources = [{"path": large}, {"path": small, **settings}, {"path": large}]
        config = TextDataConfig.model_validate({"sources": sources, "block_tokens": 16})
        return prepare_data(config, tiny_tokenizer)

    mixed = prepare(epochs=50)
    (number,) = np.flatnonzero(mixed.train.places[:, 0] == 1)
    expected = [*ids(tiny_tokenizer, "Small."), tiny_tokenizer.eos_token_id]
    assert mixed.train.example(number)[0].tolist() == expected
    assert mixed.report["mixture"][1]["draws"] == 50
    lengths = [len(prepare().train.example(i)[0]) for i in range(len(prepare().train))]
    assert set(lengths[:-2]) == {16}  # where nothing is mixed, sources go on in one block
