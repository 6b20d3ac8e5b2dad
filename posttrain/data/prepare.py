"""The data path end to end: files -> records -> splits -> encoded, audited, cached examples.

Every row is accounted for: rows read = examples + test rows + rejects, or the run stops.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from posttrain.config.data import DataConfig, SourceConfig, TextDataConfig
from posttrain.data.audit import check_audit
from posttrain.data.contamination import find_contamination
from posttrain.data.encode import Example
from posttrain.data.encoders import Encoder, build_encoder, kind_of
from posttrain.data.readers import check_file
from posttrain.data.records import Chat, Preference, Record, Reject
from posttrain.data.sources import SourceRows, read_source, read_texts
from posttrain.data.split import choose_split
from posttrain.data.store import ExampleStore, load_store, save_store
from posttrain.errors import DataError
from posttrain.files import (
    cache_root,
    digest_file,
    digest_json,
    load_json,
    publish_folder,
    write_json,
    write_jsonl,
)
from posttrain.logs import Progress

# Part of every cache key: raise it whenever the same input would be encoded differently.
_FORMAT_VERSION = 5


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
        """Content address of the data set."""
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
    digest = data_digest(config, tokenizer)
    folder = cache_root() / "prepared" / digest[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The lock dies with its holder, so a killed builder blocks nobody.
    with FileLock(folder.with_suffix(".lock")):
        reused = folder.exists()
        if not reused:
            _build(config, tokenizer, folder, digest)
    return PreparedData(
        folder,
        load_store(folder / "train"),
        load_store(folder / "validation"),
        load_json(folder / "report.json"),
        reused,
    )


def data_digest(config: DataConfig, tokenizer: Any) -> str:
    """Content address: files' bytes, options, tokenizer, template, and our own format version."""
    files = {str(s.path): digest_file(check_file(s.path)) for s in _all_sources(config) if s.path}
    options = {"kind": type(config).__name__, **config.model_dump(mode="json")}
    return digest_json(
        {
            "version": _FORMAT_VERSION,
            "options": options,
            "files": files,
            "tokenizer": _tokenizer_state(tokenizer),
            "special": tokenizer.special_tokens_map,
            "template": tokenizer.chat_template,
        }
    )


def _tokenizer_state(tokenizer: Any) -> Any:
    """All that decides how a text is encoded, less the settings that each call makes anew."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab()
    state = json.loads(backend.to_str())
    return {name: state[name] for name in state if name not in ("padding", "truncation")}


def _all_sources(config: DataConfig) -> list[SourceConfig]:
    against = config.contamination.against if config.contamination else ()
    return [*config.sources, *config.validation_sources, *against]


def _build(config: DataConfig, tokenizer: Any, folder: Path, digest: str) -> None:
    encoder = build_encoder(config, tokenizer)
    sources = [_read(source, config) for source in config.sources]
    watched = [_read(source, config) for source in config.validation_sources]
    records = [record for source in sources for record in source.records]
    rejects = [reject for source in [*sources, *watched] for reject in source.rejects]
    rows_read = sum(source.report["rows"] for source in [*sources, *watched])
    records, doubled = _deduplicate(config, records)
    records, contaminated, contamination = _decontaminate(config, records)
    splits = _split(config, records)
    splits["validation"] += [record for source in watched for record in source.records]
    examples: dict[str, list[Example]] = {}
    used = 0
    for name in ("train", "validation"):
        examples[name], refused = _encode(name, splits[name], encoder)
        rejects += refused
        used += len(splits[name]) - len(refused)
    dropped = [*doubled, *contaminated]
    _check_rejects(config, rejects, rows_read)
    everything = examples["train"] + examples["validation"]
    if not examples["train"]:
        raise DataError(
            f"{config.sources[0].path}: no row is left to train on",
            hint=f"of {rows_read} rows {len(rejects)} were rejected, "
            f"{len(dropped)} dropped as repeated or contaminated, "
            f"{len(splits['test'])} set aside",
        )
    audit = encoder.audit(everything)
    check_audit(audit)
    accounted = used + len(splits["test"]) + len(rejects) + len(dropped)
    assert accounted == rows_read, f"{rows_read} rows read, {accounted} accounted for"
    report = {
        "digest": digest,
        "kind": encoder.kind,
        "sources": [source.report for source in [*sources, *watched]],
        "rows_read": rows_read,
        "rows_used": used,
        "examples": {name: len(kept) for name, kept in examples.items()},
        "test_rows": len(splits["test"]),
        "rejects": dict(Counter(r.reason for r in [*rejects, *dropped]).most_common()),
        "contamination": contamination,
        "audit": [asdict(check) for check in audit],
        **_statistics(everything),
    }
    with publish_folder(folder) as building:
        for name, kept in examples.items():
            save_store(building / name, kept)
        write_jsonl(building / "rejects.jsonl", (r.to_json() for r in [*rejects, *dropped]))
        write_jsonl(building / "test.jsonl", (_test_row(r) for r in splits["test"]))
        write_json(building / "report.json", report)


def _read(source: SourceConfig, config: DataConfig) -> SourceRows:
    if isinstance(config, TextDataConfig):
        return read_texts(source, config)
    return read_source(source, kind_of(config))


def _encode(
    name: str, records: Sequence[Record[Any]], encoder: Encoder
) -> tuple[list[Example], list[Reject]]:
    examples: list[Example] = []
    rejects: list[Reject] = []
    progress = Progress(f"encoding {name}", len(records), "rows")
    for done, item in enumerate(encoder.encode(records)):
        progress.update(min(done, len(records)))
        if isinstance(item, Example):
            examples.append(item)
        else:
            rejects.append(item)
    return examples, rejects


def _test_row(record: Record[Any]) -> dict[str, Any]:
    content = record.content
    if isinstance(content, Chat):
        reference = {"reference": content.reference} if content.reference else {}
        tools = {"tools": content.tools} if content.tools else {}
        return {"messages": content.messages, **tools, **reference}
    if isinstance(content, Preference):
        return {
            "prompt": content.prompt,
            "chosen": content.chosen,
            "rejected": content.rejected,
            **({"tools": content.tools} if content.tools else {}),
        }
    return {"text": content.text}


def _deduplicate(
    config: DataConfig, records: list[Record[Any]]
) -> tuple[list[Record[Any]], list[Reject]]:
    """Keep the first of every group of equal or nearly equal rows."""
    if config.dedup is None:
        return records, []
    from posttrain.data.dedup import comparable_text, find_duplicates

    texts = [comparable_text(record.content) for record in records]
    first_of = find_duplicates(texts, method=config.dedup.method, threshold=config.dedup.threshold)
    dropped = [
        Reject(records[index].origin, "repeated", f"as {records[first].origin}")
        for index, first in sorted(first_of.items())
    ]
    return [r for index, r in enumerate(records) if index not in first_of], dropped


def _decontaminate(
    config: DataConfig, records: list[Record[Any]]
) -> tuple[list[Record[Any]], list[Reject], dict[str, Any] | None]:
    """Search the records for evaluation problems and do as the recipe says."""
    settings = config.contamination
    if settings is None:
        return records, [], None
    sources = [read_source(source) for source in settings.against]
    for source in sources:
        if not source.records:
            raise DataError(
                f"{source.rejects[0].origin}: {source.rejects[0].reason}; no row of this "
                f"evaluation set can be read, so nothing would be compared",
                hint="set the `format` or `columns` of contamination.against",
            )
    evaluation = [record for source in sources for record in source.records]
    found, report = find_contamination(records, evaluation, settings.keys)
    if found and settings.action == "error":
        first = next(iter(found.values()))
        raise DataError(
            f"{first.origin}: this training row is also an evaluation problem "
            f"({first.detail}), and {len(found) - 1} others are",
            hint="remove them, or set contamination.action: drop",
        )
    summary = {
        "action": settings.action,
        "matched_rows": report.matched_rows,
        "unread_problems": sum(len(source.rejects) for source in sources),
        **asdict(report),
    }
    if settings.action != "drop":
        return records, [], summary
    # By number: rows of a JSON array on one line, or of a file listed twice, share their place.
    kept = [record for number, record in enumerate(records) if number not in found]
    return kept, list(found.values()), summary


def _split(config: DataConfig, records: list[Record[Any]]) -> dict[str, list[Record[Any]]]:
    splits: dict[str, list[Record[Any]]] = {"train": [], "validation": [], "test": []}
    shares = config.split
    for record in records:
        name = choose_split(
            record.content.canonical(),
            validation=shares.validation,
            test=shares.test,
            seed=shares.seed,
        )
        splits[name].append(record)
    return splits


def _check_rejects(config: DataConfig, rejects: Sequence[Reject], rows_read: int) -> None:
    too_long = next((r for r in rejects if r.reason == "too long"), None)
    if too_long and getattr(config, "overlong", "reject") == "error":
        raise DataError(
            f"{too_long.origin}: {too_long.detail}",
            hint="raise data.max_tokens, or set data.overlong: reject",
        )
    if len(rejects) > config.max_reject_fraction * rows_read:
        counts = Counter(reject.reason for reject in rejects).most_common(3)
        reasons = ", ".join(f"{count} × {reason}" for reason, count in counts)
        first = rejects[0]
        raise DataError(
            f"{first.origin}: {first.reason}"
            + (f" ({first.detail})" if first.detail else "")
            + f"; {len(rejects)} of {rows_read} rows are unusable ({reasons})",
            hint=f"mend them, or raise data.max_reject_fraction above "
            f"{config.max_reject_fraction:g}",
        )


def _statistics(examples: Sequence[Example]) -> dict[str, Any]:
    lengths = np.array([len(example.token_ids) for example in examples])
    trained = sum(int(example.trained.sum()) for example in examples)
    counts, edges = np.histogram(lengths, bins=min(40, max(1, int(np.ptp(lengths)))))
    longest = sorted(examples, key=lambda e: -len(e.token_ids))[:10]
    return {
        "tokens": int(lengths.sum()),
        "trained_tokens": trained,
        "retokenized": sum(example.retokenized for example in examples),
        "joined_turns": sum(example.joined for example in examples),
        "length_tokens": {
            "mean": float(lengths.mean()),
            **{f"p{q}": float(np.percentile(lengths, q)) for q in (50, 90, 99)},
            "max": int(lengths.max()),
        },
        "length_histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "longest": [[str(e.record.origin), len(e.token_ids)] for e in longest],
    }
