"""From all rows to a finished data set: what is kept, where it goes, its report."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.checkpoints import write_manifest
from posttrain.config.data import DataConfig, MixtureConfig
from posttrain.data.accounts import describe_data_set
from posttrain.data.audit import check_audit, merge_checks
from posttrain.data.batch import BuildPlan
from posttrain.data.choose import DROPPED, TEST, TRAIN, VALIDATION, Choice, choose_rows
from posttrain.data.collect import AllRows, collect_rows
from posttrain.data.encode import Example
from posttrain.data.encoders import TextEncoder, build_encoder
from posttrain.data.evaluations import build_index
from posttrain.data.mixture import SourceShare, plan_draws
from posttrain.data.parts import list_parts
from posttrain.data.readers import pick_rows
from posttrain.data.records import (
    CONTAMINATED,
    NOT_FAULTS,
    REPEATED,
    Record,
    Reject,
    Text,
)
from posttrain.data.store import (
    ExampleBlock,
    ExampleStore,
    Mixture,
    load_store,
    read_blocks,
    save_store,
)
from posttrain.errors import ConfigError, DataError
from posttrain.files import cache_root, dump_line, write_errors, write_json

Array = np.ndarray[Any, Any]
_AUDITED = 256


def compose_data(
    config: DataConfig, tokenizer: Any, building: Path, identity: dict[str, str]
) -> None:
    """Read, encode, choose and write a whole data set.

    Args:
        config: With every source's ``path`` settled.
        tokenizer: The model's.
        building: Folder to fill: stores ``train`` and ``validation``, ``report.json``,
            ``rejects.jsonl``, ``test.jsonl``.
        identity: Entries of the report by which the data set is found again.

    Raises:
        DataError: Unusable input, too many rejects, or a failed mask audit.
    """
    encoder = build_encoder(config, tokenizer)
    parts = list_parts(config, encoder.kind)
    evaluations = build_index(config.contamination)
    spill = building / "rows"
    rows = collect_rows(parts, BuildPlan(config, encoder, evaluations.index), spill)
    keep = partial(_keep_rejects, spill / "rejects.jsonl", identity)
    check_rejects(config, rows, keep)
    choice = choose_rows(config, rows, spill)
    _write_dropped(spill / "rejects.jsonl", rows, choice)
    if not choice.count(TRAIN):
        raise _nothing_left(config, rows, choice, keep)
    (spill / "rejects.jsonl").rename(building / "rejects.jsonl")
    _write_tests(building / "test.jsonl", spill / "tests.jsonl", choice.splits == TEST)
    split_of_example: Array = np.repeat(choice.splits, rows.columns.examples)
    files = [str(part.path) for part in parts]
    sources = np.array([part.source for part in parts])
    for name, split in (("train", TRAIN), ("validation", VALIDATION)):
        blocks = _pick(spill, split_of_example == split)
        runs = _part_by_source(blocks, sources) if _is_mixed(config) else [blocks]
        save_store(building / name, chain.from_iterable(map(encoder.finish, runs)), files)
    shutil.rmtree(spill)
    train, validation = load_store(building / "train"), load_store(building / "validation")
    if isinstance(encoder, TextEncoder):
        for store in (train, validation):
            for examples in _as_examples(store):
                rows.audit = merge_checks(rows.audit, encoder.audit_blocks(examples))
    check_audit(rows.audit)
    mixture = _plan_mixture(config, rows, train)
    if mixture:
        write_json(building / "train" / "mixture.json", asdict(mixture))
    report = describe_data_set(config, rows, choice, (train, validation), mixture, evaluations)
    write_json(building / "report.json", {**identity, **report})
    write_manifest(building, identity)


def _as_examples(store: ExampleStore) -> Iterator[list[Example]]:
    """Take blocks of text up again, some at a time."""
    for start in range(0, len(store), _AUDITED):
        yield [
            Example(Record(Text(""), store.origin(i)), *store.example(i), retokenized=False)
            for i in range(start, min(start + _AUDITED, len(store)))
        ]


def check_rejects(config: DataConfig, rows: AllRows, keep: Callable[[], Path]) -> None:
    """Stop where too many rows are unusable; those that are sound and left out do not count.

    Args:
        config: With the share that is too large.
        rows: What was read.
        keep: Keeps the list of the rows left out, and returns where.

    Raises:
        DataError: With the first one, and the reasons counted.
    """
    faults = Counter({r: n for r, n in rows.rejects.items() if r not in NOT_FAULTS})
    if faults.total() <= config.max_reject_fraction * rows.read:
        return
    first = next(reject for reason, reject in rows.first_rejects.items() if reason in faults)
    raise DataError(
        f"{_describe_reject(first)}; {faults.total()} of {rows.read} rows are unusable "
        f"({_count_reasons(faults)})",
        hint=f"each with its reason is in {keep()}; mend them, or raise data.max_reject_fraction "
        f"above {config.max_reject_fraction:g}",
    )


def _nothing_left(
    config: DataConfig, rows: AllRows, choice: Choice, keep: Callable[[], Path]
) -> DataError:
    told = f"{config.sources[0].path}: no row is left to train on"
    why = ""
    if rows.rejects:
        most = rows.rejects.most_common(1)[0][0]
        told = f"{_describe_reject(rows.first_rejects[most])}; no row is left to train on"
        why = f" ({_count_reasons(rows.rejects)})"
    dropped = choice.count(DROPPED)
    listed = f"; each with its reason is in {keep()}" if rows.rejects or dropped else ""
    return DataError(
        told,
        hint=f"of {rows.read} rows {rows.rejects.total()} were rejected{why}, "
        f"{dropped} dropped as repeated or contaminated, {choice.count(TEST)} set aside{listed}",
    )


def _describe_reject(reject: Reject) -> str:
    return f"{reject.origin}: {reject.reason}" + (f" ({reject.detail})" if reject.detail else "")


def _count_reasons(reasons: Counter[str]) -> str:
    return ", ".join(f"{number} × {reason}" for reason, number in reasons.most_common(3))


def _keep_rejects(listed: Path, identity: dict[str, str]) -> Path:
    """Keep the list of rows left out of a data set that does not come about."""
    kept = cache_root() / "rejected" / f"{identity['key'][:32]}.jsonl"
    with write_errors(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        listed.replace(kept)
    return kept


def _write_dropped(path: Path, rows: AllRows, choice: Choice) -> None:
    """Add the dropped rows to the rejects; they are read once more."""
    dropped = np.flatnonzero(choice.splits == DROPPED).tolist()
    batches = chain.from_iterable(part.batches() for part in rows.parts)
    again = pick_rows(batches, rows.columns.numbers[dropped].tolist())
    with path.open("a", encoding="utf-8") as file:
        for number, row in zip(dropped, again, strict=True):
            if match := choice.contaminated.get(number):
                reason, detail = CONTAMINATED, f"{match.what}, {match.origin}"
            else:
                reason, detail = REPEATED, f"as {rows.origin(int(choice.repeats[number]))}"
            reject = Reject(rows.origin(number), reason, detail, row)
            file.write(f"{dump_line(reject.to_json())}\n")


def _write_tests(path: Path, lines: Path, wanted: Array) -> None:
    with (
        lines.open(encoding="utf-8", newline="\n") as source,
        path.open("w", encoding="utf-8", newline="\n") as target,
    ):
        for line, take in zip(source, wanted, strict=False):
            if take:
                target.write(line)


def _pick(spill: Path, wanted: Array) -> Iterator[ExampleBlock]:
    """Read the examples back, those that are wanted [examples]."""
    start = 0
    for block in read_blocks(spill):
        yield block.select(wanted[start : start + len(block)])
        start += len(block)


def _is_mixed(config: DataConfig) -> bool:
    return config.mixture is not None or any(
        source.weight or source.epochs or source.max_rows for source in config.sources
    )


def _part_by_source(
    blocks: Iterable[ExampleBlock], sources: Array
) -> Iterator[Iterator[ExampleBlock]]:
    """Part the examples of one source from the next one's, so that no text runs across.

    Args:
        blocks: In order.
        sources: [files] Number of each file's source.
    """

    def part() -> Iterator[tuple[int, ExampleBlock]]:
        for block in blocks:
            found = sources[block.places[:, 0]]
            for source in dict.fromkeys(found.tolist()):
                yield source, block.select(found == source)

    for _, run in groupby(part(), key=itemgetter(0)):
        yield (block for _, block in run)


def _plan_mixture(config: DataConfig, rows: AllRows, train: ExampleStore) -> Mixture | None:
    """Settle how often each source is seen in an epoch; None where each example is seen once."""
    if not _is_mixed(config):
        return None
    settings = config.mixture or MixtureConfig()
    source_of_part = np.array([part.source for part in rows.parts])
    sizes = np.bincount(source_of_part[train.places[:, 0]], minlength=len(config.sources)).tolist()
    shares = [SourceShare(s.weight, s.epochs, s.max_rows) for s in config.sources]
    _check_shares(config, rows, sizes)
    draws = plan_draws(sizes, shares, settings.temperature)
    if not sum(draws):
        wanted = ", ".join(
            f"{source.epochs:g} epochs of {size}"
            for source, size in zip(config.sources, sizes, strict=True)
            if source.epochs
        )
        raise ConfigError(
            f"data.sources: an epoch has no example ({wanted} examples)",
            hint="raise `epochs`: half an example counts as one",
        )
    return Mixture(sizes, draws, settings.seed)


def _check_shares(config: DataConfig, rows: AllRows, sizes: Sequence[int]) -> None:
    """Stop where a source has a share of an epoch and nothing to fill it with."""
    for number, source in enumerate(config.sources):
        read = sum(rows.read_of_part[part.number] for part in rows.parts if part.source == number)
        reasons = sum(
            (
                rows.rejects_of_part.get(p.number, Counter())
                for p in rows.parts
                if p.source == number
            ),
            Counter[str](),
        )
        promised = config.mixture is not None or source.weight or source.epochs
        if read and promised and not sizes[number]:
            raise DataError(
                f"{source.path}: none of its {read:,} rows became a training example, so it cannot "
                "have the share of an epoch that the recipe gives it",
                hint=f"{_count_reasons(reasons) or 'no row was rejected'}; repeated rows count for "
                "the source that comes first. Mend it or leave it out",
            )
