"""LLaMA-Factory's ``dataset_info.json``: data sets by name, with their files, columns and tags."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.config.data import SourceConfig
from posttrain.data.readers import TEXT_ENDINGS, find_ending
from posttrain.errors import DataError

REGISTRY = "dataset_info.json"
_HUBS = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_KEYS = {
    "file_name", *_HUBS, "formatting", "ranking", "columns", "tags", "subset", "split", "folder",
    "num_samples",
}  # fmt: skip
# What they call a column -> what our format does; of alpaca's, and of the conversations'.
_ALPACA = {
    "prompt": "instruction", "query": "input", "response": "output", "history": "history",
    "system": "system",
}  # fmt: skip
_OPTIONAL = ("query", "history", "system", "tools")
_ANSWERS = {"chosen": "chosen", "rejected": "rejected"}
_AROUND = {"system": "system", "tools": "tools"}
_MEDIA = ("images", "videos", "audios")
_COLUMNS = {*_ALPACA, *_ANSWERS, *_AROUND, "messages", "kto_tag", *_MEDIA}
_TAGS = {
    "role_tag": "role", "content_tag": "content", "user_tag": "user",
    "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "call",
    "system_tag": "system",
}  # fmt: skip
_SHOWN = 40


def find_registry(source: SourceConfig) -> Path | None:
    """Return the registry that a source is an entry of; None where it is none."""
    assert source.path is not None
    if source.dataset is None:
        return source.path if source.path.name == REGISTRY and source.path.is_file() else None
    return source.path / REGISTRY if source.path.is_dir() else source.path


def read_entries(source: SourceConfig, registry: Path) -> list[SourceConfig]:
    """Return a source for each entry that is asked for, with all that the registry says of it.

    Args:
        source: With ``dataset``, the entries' names.
        registry: The ``dataset_info.json``.

    Raises:
        DataError: It is no registry, has no such entry, or the entry is of a kind not read here.
    """
    entries = _load(registry)
    names = [name.strip() for name in (source.dataset or "").split(",") if name.strip()]
    if not names:
        raise DataError(
            f"{registry}: is a registry of {len(entries)} data sets",
            hint=f"name one with `dataset`: {_list_names(registry, entries)}",
        )
    return [_build(source, registry, name, _find(registry, entries, name)) for name in names]


def _load(registry: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(registry.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{registry}: no such file", hint="check the path") from None
    except OSError as error:
        raise DataError(f"{registry}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{registry}: broken JSON: {error}") from None
    if isinstance(entries, dict) and isinstance(entries.get("features"), dict):
        raise DataError(
            f"{registry}: describes a saved data set, it is no registry of several",
            hint="give its folder as `path`, without `dataset`",
        )
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise DataError(
            f"{registry}: is no registry",
            hint='it has the form {"NAME": {"file_name": "rows.json"}, ...}',
        )
    return entries


def _find(registry: Path, entries: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
    raise DataError(
        f"{registry}: no entry `{name}`",
        hint=f"did you mean {' or '.join(f'`{n}`' for n in near)}?"
        if near
        else f"it has: {_list_names(registry, entries)}",
    )


def _list_names(registry: Path, entries: Mapping[str, dict[str, Any]]) -> str:
    """Name the entries, first those whose files are here."""
    here = [n for n, e in entries.items() if (registry.parent / str(e.get("file_name"))).exists()]
    others = [name for name in entries if name not in here]
    shown = ", ".join(here) or "none whose file is here"
    if not others:
        return shown
    more = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    return f"{shown}; not here: {more}"


def _build(
    source: SourceConfig, registry: Path, name: str, entry: Mapping[str, Any]
) -> SourceConfig:
    place = f"{registry}: `{name}`"
    _check_keys(place, entry)
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    found, named = _read_layout(place, entry, columns)
    path = _find_file(place, registry, entry)
    if source.columns or source.turns or source.format != "auto":
        raise DataError(
            f"{place}: the registry says what its columns are",
            hint="leave `format`, `columns` and `turns` out, or give the file itself as `path`",
        )
    if find_ending(path) in TEXT_ENDINGS:
        named = {}  # its lines have no fields
    limits = [limit for limit in (source.limit, entry.get("num_samples")) if limit]
    return source.model_copy(
        update={
            "path": path,
            "dataset": None,
            "format": found,
            "columns": {ours: theirs for ours, theirs in named.items() if ours != theirs},
            "turns": {_TAGS[tag]: value for tag, value in tags.items() if value != tag[:-4]},
            "documents": source.documents or "line",  # as they load text files
            "limit": min(limits, default=None),
        }
    )


def _find_file(place: str, registry: Path, entry: Mapping[str, Any]) -> Path:
    if "file_name" in entry:
        path: Path = registry.parent / str(entry["file_name"])
        if not path.exists():
            raise DataError(f"{place}: no such file: {path}", hint="fetch it, or mend `file_name`")
        if entry.get("split", "train") != "train":
            raise DataError(
                f"{place}: a file has no split `{entry['split']}`", hint="remove `split`"
            )
        return path
    hub = next((str(entry[key]) for key in _HUBS if key in entry), "")
    if "hf_hub_url" in entry or "ms_hub_url" in entry:
        fetch = f"posttrain download {hub} out=DIR kind=dataset"
        raise DataError(
            f"{place}: is on a hub, not in a file", hint=f"`{fetch}`, then give DIR as `path`"
        )
    raise DataError(
        f"{place}: has no `file_name`{f', only {hub}' if hub else ''}",
        hint="fetch its files and give them as `path`",
    )


def _check_keys(place: str, entry: Mapping[str, Any]) -> None:
    groups = (
        ("key", entry, _KEYS),
        ("column", entry.get("columns") or {}, _COLUMNS),
        ("tag", entry.get("tags") or {}, set(_TAGS)),
    )
    for what, given, known in groups:
        if not isinstance(given, Mapping):
            raise DataError(f"{place}: its {what}s are no object")
        for name, value in given.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = (
                    f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"
                )
                raise DataError(f"{place}: unknown {what} `{name}`", hint=hint)
            if what != "key" and not isinstance(value, str):
                raise DataError(f"{place}: the {what} `{name}` is not text")
    number = entry.get("num_samples")
    if number is not None and (not isinstance(number, int) or number < 1):
        raise DataError(f"{place}: `num_samples` is not a number above 0")


def _read_layout(
    place: str, entry: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Return our format's name and the columns: ours -> theirs, empty where there is none."""
    formatting = entry.get("formatting", "alpaca")
    if media := [name for name in _MEDIA if name in columns]:
        raise DataError(f"{place}: has {media[0]}; only text is read", hint="choose another entry")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise DataError(
            f"{place}: unknown formatting `{formatting}`", hint="known: alpaca, sharegpt, openai"
        )
    ranking, kto = bool(entry.get("ranking")), "kto_tag" in columns
    if formatting == "alpaca":
        if set(columns) == {"prompt"}:
            return "text", {"text": columns["prompt"]}
        if kto:
            names = {"prompt": "prompt", "response": "completion", "kto_tag": "label"}
            return "kto", _name(place, columns, {**names, **_AROUND})
        names = {key: _ALPACA[key] for key in _ALPACA if not (ranking and key == "response")}
        names = {**names, **_ANSWERS, "tools": "tools"} if ranking else names
        return "alpaca_preference" if ranking else "alpaca", _name(place, columns, names)
    turns = "conversations" if formatting == "sharegpt" else "messages"
    if kto:
        names = {"messages": turns, "kto_tag": "label"}
        return "kto", _name(place, columns, {**names, **_AROUND})
    if ranking:
        names = {"messages": "conversations", **_ANSWERS}
        return "sharegpt_preference", _name(place, columns, {**names, **_AROUND})
    names = {"messages": turns, **_AROUND}
    return "sharegpt" if turns == "conversations" else "messages", _name(place, columns, names)


def _name(place: str, columns: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Our names -> theirs. A column that the registry does not name is not read, as with them."""
    if not columns:
        return {}
    if strange := [key for key in columns if key not in names]:
        raise DataError(
            f"{place}: the column `{strange[0]}` has no meaning beside its `formatting`",
            hint=f"known there: {', '.join(names)}",
        )
    return {
        ours: columns.get(theirs, "" if theirs in _OPTIONAL else ours)
        for theirs, ours in names.items()
    }
