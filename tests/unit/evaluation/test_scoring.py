"""Packed scores against the model's own logits, one text at a time."""

import json
import math

import numpy as np
import pytest
import torch

from posttrain.config.evaluation import ChoiceTask, PerplexityTask
from posttrain.config.model import ModelConfig
from posttrain.data.records import Origin
from posttrain.errors import DataError
from posttrain.evaluation.choice import ask_questions, build_trees, run_likelihood, score_questions
from posttrain.evaluation.perplexity import (
    Document,
    cut_windows,
    encode_documents,
    name_documents,
    read_documents,
    run_perplexity,
    score_documents,
)
from posttrain.evaluation.problems import Choice, Problem
from posttrain.evaluation.results import summarize_choices, summarize_documents
from posttrain.evaluation.scoring import score_trees
from posttrain.evaluation.tasks import load_task_model, run_task
from posttrain.files import write_jsonl
from posttrain.layout import Segment
from posttrain.samples import GENERATORS

TEXTS = ["The bell rang twice and the crowd went home.", "Two and two are four.", "九九乘法表。"]


@pytest.fixture(scope="module")
def packed(cache_dir):
    return load_task_model(ModelConfig(path="tiny"), "score", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def plain(cache_dir):
    return load_task_model(ModelConfig(path="tiny"), "generate", dtype="float32", device="cpu")


def naive_logprobs(model, token_ids):
    """Log-probability of every token but the first."""
    ids = torch.tensor([token_ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].numpy()


def perplexity_task(**settings):
    return PerplexityTask(kind="perplexity", data={"path": "x.txt"}, **settings)


def choice_task(**settings):
    return ChoiceTask(kind="choice", method="likelihood", data={"path": "x.jsonl"}, **settings)


def choices():
    made = [
        Choice("", "The bell rang", ("twice", "and the crowd went home", "cold"), 1),
        Choice("A short passage.", "Two and two are", ("four", "a cold wind in the north"), 0),
    ]
    return [
        Problem(Origin("q.jsonl", n), ({"role": "user", "content": c.text},), "ABC"[c.right],
                choice=c)
        for n, c in enumerate(made, 1)
    ]  # fmt: skip


def score_choices(task, model, tokenizer):
    questions = ask_questions(task, choices(), tokenizer)
    found = {record.id: record for record in score_questions(task, questions, model)}
    records = [found[question.name] for question in questions]
    return summarize_choices(records), records


def foretell(task, documents, model, tokenizer):
    named = name_documents(documents, tokenizer)
    found = {record.id: record for record in score_documents(task, named, model, tokenizer)}
    records = [found[one.name] for one in named]
    return summarize_documents(records), records


@pytest.mark.parametrize("context", ["chat", "text"])
@pytest.mark.parametrize("batch_tokens", [8, 4096])
def test_options_score_as_they_would_alone(packed, plain, tiny_tokenizer, context, batch_tokens):
    task = choice_task(context=context, batch_tokens=batch_tokens)
    _, records = score_choices(task, packed, tiny_tokenizer)
    for record, tree in zip(records, build_trees(task, choices(), tiny_tokenizer), strict=True):
        root = tree[0].token_ids
        for option, child in zip(record.options, tree[1:], strict=True):
            alone = naive_logprobs(plain, [*root, *child.token_ids])[len(root) - 1 :]
            assert option["logprob"] == pytest.approx(alone.sum(), abs=1e-3)
            size = len(option["text"].encode())
            assert option["logprob_per_byte"] == pytest.approx(option["logprob"] / size)


def test_the_chosen_normalization_decides_and_both_are_told(packed, tiny_tokenizer):
    found = {}
    for normalize, key in (("none", "logprob"), ("bytes", "logprob_per_byte")):
        task = choice_task(normalize=normalize)
        summary, records = score_choices(task, packed, tiny_tokenizer)
        for record in records:
            best = max(record.options, key=lambda option: option[key])
            assert record.answer == best["letter"]
            assert record.correct == (record.answer == record.reference)
        found[normalize] = summary
    assert found["none"]["accuracy"] == found["bytes"]["accuracy_by"]["sum"]
    assert found["bytes"]["accuracy"] == found["none"]["accuracy_by"]["bytes"]


def test_documents_score_as_they_would_alone(packed, plain, tiny_tokenizer):
    documents = [Document(Origin("t.txt", n), text) for n, text in enumerate(TEXTS, 1)]
    summary, records = foretell(perplexity_task(), documents, packed, tiny_tokenizer)
    encoded = encode_documents(documents, tiny_tokenizer)
    alone = [-naive_logprobs(plain, ids).sum() for ids in encoded]
    assert [record.nats for record in records] == pytest.approx(alone, abs=1e-3)
    assert summary["tokens"] == sum(len(ids) - 1 for ids in encoded)
    assert summary["nats_per_token"] == pytest.approx(sum(alone) / summary["tokens"])
    assert summary["value"] == pytest.approx(math.exp(summary["nats_per_token"]))
    bits = summary["nats_per_token"] * summary["tokens"] / math.log(2) / summary["bytes"]
    assert summary["bits_per_byte"] == pytest.approx(bits)
    assert summary["interval"][0] < summary["value"] < summary["interval"][1]


def test_windows_score_every_token_once_with_the_overlap_as_context(packed, plain, tiny_tokenizer):
    text = " ".join(TEXTS * 3)
    documents = [Document(Origin("t.txt", 1), text)]
    task = perplexity_task(window_tokens=16, overlap_tokens=4)
    summary, (record,) = foretell(task, documents, packed, tiny_tokenizer)
    (ids,) = encode_documents(documents, tiny_tokenizer)
    expected = -naive_logprobs(plain, ids[:16]).sum()
    for start in range(12, len(ids) - 4, 12):
        expected -= naive_logprobs(plain, ids[start : start + 16])[3:].sum()
    assert record.nats == pytest.approx(expected, abs=1e-3)
    assert summary["interval"] is None  # one document has no spread


@pytest.mark.parametrize(("length", "window", "overlap"), [(2, 8, 3), (8, 8, 3), (9, 8, 3),
                                                           (100, 8, 7), (57, 10, 1)])  # fmt: skip
def test_no_window_is_too_long_and_no_token_scored_twice(length, window, overlap):
    scored = []
    for segment in cut_windows(range(length), window, overlap):
        assert len(segment.token_ids) <= window
        assert segment.weights[0] == 0
        scored += segment.token_ids[np.flatnonzero(segment.weights)].tolist()
    assert scored == list(range(1, length))


def test_text_files_and_rows_of_text_are_read(tmp_path):
    (tmp_path / "t.txt").write_text("one\ntwo\n\nthree\n")
    write_jsonl(tmp_path / "t.jsonl", [{"text": "one"}, {"text": "two"}])

    def texts(name, documents="file"):
        task = PerplexityTask(
            kind="perplexity", data={"path": tmp_path / name}, documents=documents
        )
        return [document.text for document in read_documents(task)]

    assert texts("t.txt") == ["one\ntwo\n\nthree\n"]
    assert texts("t.txt", "paragraph") == ["one\ntwo", "three"]
    assert texts("t.jsonl") == ["one", "two"]
    write_jsonl(tmp_path / "t.jsonl", [{"text": "one"}, {"words": "two"}])
    with pytest.raises(DataError, match=r"t\.jsonl:2: no text"):
        texts("t.jsonl")


def test_a_document_with_nothing_to_score_is_named(tiny_tokenizer):
    with pytest.raises(DataError, match=r"t\.txt:4: this document has no token to score"):
        encode_documents([Document(Origin("t.txt", 4), "")], tiny_tokenizer)


def test_a_perplexity_folder_holds_records_and_results(packed, tiny_tokenizer, tmp_path):
    write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS])
    task = PerplexityTask(kind="perplexity", data={"path": tmp_path / "t.jsonl"})
    results = run_task(task, packed, tiny_tokenizer, tmp_path / "out", model_name="tiny")
    assert (results["metric"], results["higher_is_better"]) == ("perplexity", False)
    lines = (tmp_path / "out/records.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["tokens"] for line in lines) == results["tokens"]


@pytest.mark.parametrize("kind", ["perplexity", "choice"])
def test_scoring_goes_on_behind_what_was_kept(packed, tiny_tokenizer, tmp_path, capsys, kind):
    write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in TEXTS])
    write_jsonl(tmp_path / "x.jsonl", GENERATORS["mcq"](3, 0))
    if kind == "choice":
        task = ChoiceTask(kind=kind, method="likelihood", data={"path": tmp_path / "x.jsonl"})
    else:
        task = PerplexityTask(kind=kind, data={"path": tmp_path / "t.jsonl"})
    run = run_likelihood if kind == "choice" else run_perplexity
    place = packed, tiny_tokenizer, tmp_path / "t"

    summary, records = run(task, *place, model_identity="m")
    assert "resumed" not in summary
    path = tmp_path / "t/records.jsonl"
    kept = path.read_text().splitlines(keepends=True)
    assert len(kept) == 3
    path.write_text(kept[-1])
    summary, again = run(task, *place, model_identity="m")
    assert summary["resumed"] == 1
    assert "going on behind 1 records" in capsys.readouterr().err
    assert [record.id for record in again] == [record.id for record in records]
    for one, other in zip(again, records, strict=True):
        if kind == "choice":
            mine, theirs = ([o["logprob"] for o in found.options] for found in (one, other))
        else:
            mine, theirs = one.nats, other.nats
        assert mine == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("head_tokens", [0, 40])
def test_trees_with_a_shared_head_and_one_token_options_are_scored_as_texts(
    packed, plain, head_tokens
):
    """What all begin with is read once, and the ends of options are not read at all."""
    source = np.random.default_rng(3)
    head = source.integers(300, 1500, head_tokens)
    trees = []
    for root_tokens, options in ((5, (1, 1, 1)), (9, (4, 1, 7)), (1, (2, 3)), (3, (1,))):
        root = np.concatenate([head, source.integers(300, 1500, root_tokens)])
        children = [source.integers(300, 1500, count) for count in options]
        trees.append(
            [
                Segment(root, np.zeros(len(root))),
                *(Segment(ids, np.ones(len(ids)), parent=0) for ids in children),
            ]
        )
    for batch_tokens in (4096, 60):
        scores = dict(score_trees(packed, trees, batch_tokens=batch_tokens))
        for number, (root, *children) in enumerate(trees):
            none, *found = scores[number]
            assert len(none) == 0
            for child, logprobs in zip(children, found, strict=True):
                ids = [*root.token_ids.tolist(), *child.token_ids.tolist()]
                expected = naive_logprobs(plain, ids)[-len(child.token_ids) :]
                assert np.abs(logprobs - expected).max() < 1e-4


def test_a_window_beyond_what_the_model_takes_is_refused(packed, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(packed.config, "max_position_embeddings", 8)
    documents = name_documents([Document(Origin("x", 1), "one two " * 9)], tiny_tokenizer)
    short = perplexity_task(window_tokens=8, overlap_tokens=4)
    assert len(list(score_documents(short, documents, packed, tiny_tokenizer))) == 1
    longer = perplexity_task(window_tokens=9, overlap_tokens=4)
    with pytest.raises(DataError, match="has 9 tokens, and the model takes 8"):
        list(score_documents(longer, documents, packed, tiny_tokenizer))
    questions = ask_questions(choice_task(), choices(), tiny_tokenizer)
    with pytest.raises(DataError, match="and the model takes 8"):
        list(score_questions(choice_task(), questions, packed))


@pytest.mark.parametrize("text", ["九九乘法表。", "😀 hi", "Hello"])
def test_a_first_token_that_is_a_part_of_a_character_counts_its_own_bytes(
    packed, tiny_tokenizer, text
):
    documents = name_documents([Document(Origin("x", 1), text)], tiny_tokenizer)
    (found,) = score_documents(perplexity_task(), documents, packed, tiny_tokenizer)
    own = tiny_tokenizer.convert_ids_to_tokens(documents[0].token_ids[0])
    assert found.bytes == len(text.encode()) - len(own)
    whole = sum(map(len, tiny_tokenizer.convert_ids_to_tokens(documents[0].token_ids)))
    assert whole == len(text.encode())
