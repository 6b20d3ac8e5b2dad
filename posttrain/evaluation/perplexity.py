"""How well a model foretells text: nats per token, perplexity, bits per byte."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config.data import SourceConfig, TextDataConfig
from posttrain.config.evaluation import PerplexityTask
from posttrain.data.records import Origin, describe_reject
from posttrain.data.sources import read_texts
from posttrain.errors import DataError
from posttrain.evaluation.journal import identify, open_journal, tell_time
from posttrain.evaluation.problems import name_origins
from posttrain.evaluation.results import DocumentRecord, summarize_documents
from posttrain.evaluation.scoring import score_trees
from posttrain.layout import Segment
from posttrain.logs import Progress

_EXCERPT_CHARACTERS = 120


@dataclass(frozen=True)
class Document:
    """A text to be foretold."""

    origin: Origin
    text: str


def read_documents(task: PerplexityTask) -> list[Document]:
    """Read a text file, or rows with a text.

    Raises:
        DataError: Names the first row without a text.
    """
    found = read_texts(task.data, _text_settings(task.data, task.documents))
    if found.rejects:
        first = found.rejects[0]
        raise DataError(
            f"{first.origin}: {describe_reject(first.reason, first.detail)}",
            hint="mend it, or name the field with `columns: {text: NAME}`",
        )
    return [Document(record.origin, record.content.text) for record in found.records]


def _text_settings(source: SourceConfig, documents: Any) -> TextDataConfig:
    return TextDataConfig(sources=(source,), documents=documents)


@dataclass(frozen=True)
class EncodedDocument:
    """A document as the model is given it."""

    name: str
    document: Document
    token_ids: list[int]


def run_perplexity(
    task: PerplexityTask, model: Any, tokenizer: Any, folder: Path, *, model_identity: Any
) -> tuple[dict[str, Any], list[DocumentRecord]]:
    """Score every token of every document once.

    What an earlier, unfinished attempt has left in the folder is gone on with.

    Args:
        task: Documents, window and overlap.
        model: Loaded with our packed attention, in evaluation mode.
        tokenizer: Its tokenizer.
        folder: Of the task's results.
        model_identity: What tells the model from another.

    Returns:
        Summary and records.

    Raises:
        DataError: A document has no token to score.
    """
    asked = name_documents(read_documents(task), tokenizer)
    told = [[one.name, one.token_ids] for one in asked]
    with open_journal(folder, identify(task, told, model_identity)) as journal:
        found = {line["id"]: DocumentRecord(**line) for line in journal.lines}
        resumed = len(found)
        rest = [one for one in asked if one.name not in found]
        progress = Progress(task.label, len(asked), "documents")
        started = time.perf_counter()
        for record in score_documents(task, rest, model, tokenizer):
            journal.add(record.to_json())
            found[record.id] = record
            progress.update(len(found))
        seconds = time.perf_counter() - started
    records = [found[one.name] for one in asked]
    tokens = sum(found[one.name].tokens for one in rest)
    took = tell_time(folder, "tokens_per_second", tokens, seconds, resumed=resumed)
    return summarize_documents(records) | took, records


def score_documents(
    task: PerplexityTask, documents: Sequence[EncodedDocument], model: Any, tokenizer: Any
) -> Iterator[DocumentRecord]:
    """Score documents.

    Args:
        task: Window and overlap.
        documents: From ``name_documents``.
        model: Loaded with our packed attention, in evaluation mode.
        tokenizer: Its tokenizer.

    Yields:
        The record of each document, when all of its windows are scored.
    """
    cut = [cut_windows(d.token_ids, task.window_tokens, task.overlap_tokens) for d in documents]
    owners = [number for number, windows in enumerate(cut) for _ in windows]
    parts: list[list[float]] = [[] for _ in cut]
    trees = [[window] for windows in cut for window in windows]
    for index, (logprobs,) in score_trees(model, trees, batch_tokens=task.batch_tokens):
        number = owners[index]
        parts[number].append(float(logprobs.sum()))
        if len(parts[number]) == len(cut[number]):
            yield _record(documents[number], -math.fsum(parts[number]), tokenizer)


def name_documents(documents: Sequence[Document], tokenizer: Any) -> list[EncodedDocument]:
    """Encode documents, and give each a name.

    Raises:
        DataError: A document has nothing to score.
    """
    names = name_origins(document.origin for document in documents)
    encoded = encode_documents(documents, tokenizer)
    return [EncodedDocument(*parts) for parts in zip(names, documents, encoded, strict=True)]


def encode_documents(documents: Sequence[Document], tokenizer: Any) -> list[list[int]]:
    """Encode documents, each behind the tokenizer's start token where it has one.

    Without one nothing foretells a document's first token, and it is not scored.

    Raises:
        DataError: A document has nothing to score.
    """
    texts = [document.text for document in documents]
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    # Long documents are cut afterwards; the tokenizer would warn of their length.
    found = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    encoded = [[*start, *ids] for ids in found]
    for document, ids in zip(documents, encoded, strict=True):
        if len(ids) < 2:
            raise DataError(
                f"{document.origin}: this document has no token to score",
                hint="leave it out: without a start token, the first token is not scored",
            )
    return encoded


def cut_windows(token_ids: Sequence[int], window: int, overlap: int) -> list[Segment]:
    """Cut a document into windows in which every token but the first is scored exactly once.

    Args:
        token_ids: At least two.
        window: Most tokens in a window.
        overlap: Tokens that a window repeats as context; below ``window``.

    Returns:
        Root segments; the repeated tokens have no weight.
    """
    windows = []
    start, scored = 0, 1
    while scored < len(token_ids):
        end = min(start + window, len(token_ids))
        ids = np.array(token_ids[start:end])
        windows.append(Segment(ids, (np.arange(start, end) >= scored).astype(np.float32)))
        start, scored = end - overlap, end
    return windows


def _record(one: EncodedDocument, nats: float, tokenizer: Any) -> DocumentRecord:
    document, token_ids = one.document, one.token_ids
    size = len(document.text.encode())
    if tokenizer.bos_token_id is None:
        size -= _count_bytes(document.text, token_ids[0], tokenizer)
    tokens, size = len(token_ids) - 1, max(size, 1)
    return DocumentRecord(
        id=one.name,
        digest=hashlib.sha256(document.text.encode()).hexdigest(),
        excerpt=" ".join(document.text[:_EXCERPT_CHARACTERS].split()),
        tokens=tokens,
        bytes=size,
        nats=nats,
        nats_per_token=nats / tokens,
        perplexity=math.exp(min(nats / tokens, 709.0)),
        bits_per_byte=nats / math.log(2) / size,
    )


def _count_bytes(text: str, first: int, tokenizer: Any) -> int:
    """Bytes that a text's first token stands for; it may be a part of a character."""
    decoded = tokenizer.decode([first])
    if text.startswith(decoded):
        return len(decoded.encode())
    written: str = tokenizer.convert_ids_to_tokens(first)
    # One sign for each byte, but where a tokenizer writes single bytes as <0xE4>.
    return 1 if written.startswith("<0x") else len(written)
