"""The files that a data set is read from, each with its format settled."""

from __future__ import annotations

from functools import partial

from posttrain.config.data import DataConfig, SourceConfig, TextDataConfig
from posttrain.data.batch import Part
from posttrain.data.sources import (
    build_converter,
    choose_source_format,
    choose_text_format,
    expand_source,
    find_text_fields,
    scan_source,
)

WATCHED = -1


def list_parts(config: DataConfig, kind: str) -> list[Part]:
    """Find the files of all sources and settle their formats.

    Args:
        config: With every source's ``path`` settled.
        kind: What the rows shall become: ``chat``, ``preference`` or ``text``.

    Returns:
        The files in order, those that are only watched at the end.

    Raises:
        DataError: A file cannot be used at all, or no format fits its rows.
    """
    wanted = [*enumerate(config.sources), *((WATCHED, s) for s in config.validation_sources)]
    files = [(number, file) for number, source in wanted for file in expand_source(source)]
    return [_settle(config, kind, i, number, file) for i, (number, file) in enumerate(files)]


def _settle(config: DataConfig, kind: str, number: int, source: int, file: SourceConfig) -> Part:
    assert file.path is not None
    if isinstance(config, TextDataConfig):
        name, evidence = choose_text_format(file, config)
        convert = build_converter(file, name, find_text_fields(file, config))
        batches = partial(scan_source, file, documents=config.documents)
    else:
        name, evidence = choose_source_format(file, kind)
        convert = build_converter(file, name)
        batches = partial(scan_source, file)
    report = {"path": str(file.path), "format": name, "evidence": evidence}
    return Part(number, file.path, convert, batches, source, report)
