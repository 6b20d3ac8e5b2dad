"""The data path end to end: files -> records -> splits -> encoded, audited, cached examples.

Every row is accounted for: rows read = rows used + test rows + rejects, or the run stops.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from posttrain.checkpoints import find_damage
from posttrain.config.data import DataConfig, SourceConfig
from posttrain.data.compose import compose_data
from posttrain.data.readers.batches import changed_while_read
from posttrain.data.sources import check_source
from posttrain.data.store import ExampleStore, load_store
from posttrain.files import (
    cache_root,
    digest_file,
    digest_json,
    load_json,
    publish_folder,
    write_errors,
)
from posttrain.logs import say

# Part of every cache key: raise it whenever the same input would be encoded differently.
_FORMAT_VERSION = 7
# What changes how fast, or what is told, but no example.
_WITHOUT_EFFECT = {"workers"}
_LOOK_SECONDS = 0.2
_SAY_SECONDS = 30.0


@dataclass(frozen=True)
class PreparedData:
    """A finished, audited data set."""

    folder: Path
    train: ExampleStore
    validation: ExampleStore
    report: dict[str, Any]
    """Counts, audit and statistics, as in ``report.json``."""
    reused: bool
    """Whether it came from the cache."""

    @property
    def digest(self) -> str:
        """Content address of the examples."""
        return str(self.report["digest"])


def prepare_data(config: DataConfig, tokenizer: Any) -> PreparedData:
    """Prepare a data set, or take it from the cache.

    Args:
        config: With every source's ``path`` settled.
        tokenizer: The model's tokenizer, with the chat template that will be used.

    Returns:
        The data set, memory-mapped.

    Raises:
        DataError: Unusable input, too many rejects, or a failed mask audit.
        ConfigError: The tokenizer has no chat template.
    """
    read = _digest_files(config)
    digest, key = _address(config, tokenizer, read)
    folder = cache_root() / "prepared" / key[:32]
    with write_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    found = _take(folder, key, reused=True)
    if found:
        return found
    with _build_lock(folder):
        found = _take(folder, key, reused=True)
        if found:
            return found
        with publish_folder(folder) as building:
            compose_data(config, tokenizer, building, {"digest": digest, "key": key})
            if _digest_files(config) != read:
                raise changed_while_read("a file of the data")
        found = _take(folder, key, reused=False)
    assert found is not None, f"{folder}: just built, and not whole"
    return found


def _take(folder: Path, key: str, *, reused: bool) -> PreparedData | None:
    """Map a finished data set; None where there is none, or not the whole of it.

    A folder appears by one rename once it is whole. What a full disk, a crash or a failing disk has
    done to it afterwards is told by its manifest, and it is built anew.
    """
    if not folder.exists():
        return None
    try:
        damage = find_damage(folder)
        if damage is None:
            report = load_json(folder / "report.json")
            train, validation = load_store(folder / "train"), load_store(folder / "validation")
    except OSError as error:  # another process replaces it just now
        damage = error.strerror or str(error)
    if damage is None and report["key"] != key:
        damage = "it holds other data"
    if damage:
        say(f"data: {folder} is damaged ({damage}) and is made anew")
        return None
    return PreparedData(folder, train, validation, report, reused)


@contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Let one process build. The lock dies with its holder: a killed builder blocks nobody."""
    lock = FileLock(folder.with_suffix(".lock"))
    said = 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_LOOK_SECONDS)
        except Timeout:
            if time.monotonic() - said > _SAY_SECONDS:
                said = time.monotonic()
                say("data: another process prepares this data; waiting for it")
    try:
        yield
    finally:
        lock.release()


def data_digest(config: DataConfig, tokenizer: Any) -> tuple[str, str]:
    """Content addresses: files' bytes, options, tokenizer, template, and our own format version.

    Returns:
        Of the examples, and of all that the folder holds: that the rows were searched for
        evaluation problems, and what was found, changes no example where it is only reported.
    """
    return _address(config, tokenizer, _digest_files(config))


def _address(config: DataConfig, tokenizer: Any, files: dict[str, Any]) -> tuple[str, str]:
    contamination = config.contamination
    reported = contamination is None or contamination.action == "report"
    against = files["against"]
    options = {
        "kind": type(config).__name__,
        **config.model_dump(mode="json", exclude={*_WITHOUT_EFFECT, "contamination"}),
    }
    basis = {
        "version": _FORMAT_VERSION,
        "options": options,
        "files": {name: files[name] for name in ("sources", "validation")},
        "tokenizer": tokenizer_digest(tokenizer),
        "special": tokenizer.special_tokens_map,
        "template": tokenizer.chat_template,
    }
    searched = [contamination.model_dump(mode="json") if contamination else None, against]
    if not reported:
        basis["contamination"] = searched
    digest = digest_json(basis)
    return digest, digest_json([digest, searched])


def _digest_files(config: DataConfig) -> dict[str, Any]:
    """What is in all files that decide about a data set."""
    return {
        "sources": _digest_sources(config.sources),
        "validation": _digest_sources(config.validation_sources),
        "against": _digest_sources(config.contamination.against) if config.contamination else [],
    }


def _digest_sources(sources: Sequence[SourceConfig]) -> list[list[tuple[Any, ...]]]:
    """Paths and contents of all files behind some sources, and what a registry says of them."""
    return [
        [
            (str(s.path), digest_file(s.path), s.format, s.columns, s.turns, s.limit)
            for s in check_source(source)
            if s.path
        ]
        for source in sources
    ]


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of all that decides how a text is encoded.

    Padding and truncation are left out: each call makes them anew.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return digest_json(tokenizer.get_vocab())
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    try:
        return hashlib.sha256(backend.to_str().encode("utf-8", "surrogatepass")).hexdigest()
    finally:
        if padding:
            backend.enable_padding(**padding)
        if truncation:
            backend.enable_truncation(**truncation)
