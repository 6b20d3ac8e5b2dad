"""Write multiple-choice items in a batch: appended as they come, gone on with after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from posttrain.config.items import GenerateItemsConfig, ItemWriting
from posttrain.config.model import ModelConfig
from posttrain.data.item_requests import load_requests, write_request
from posttrain.data.readers import check_file
from posttrain.errors import ConfigError, DataError, InterruptedRunError
from posttrain.files import digest_json, load_jsonl, write_errors
from posttrain.grading.items import parse_content
from posttrain.items import ItemRequest
from posttrain.logs import Progress, say
from posttrain.runs.find import find_latest_model, identify_model
from posttrain.runtime import Compute, choose_compute

# Half of a surrogate pair cannot be UTF-8; as an escape it is JSON all the same.
_ESCAPE = "backslashreplace"


@dataclass(frozen=True)
class _Order:
    """One item that shall be written."""

    id: str
    request: ItemRequest
    seed: int
    digest: str
    """Of everything that the item depends on."""


def generate_items(config: GenerateItemsConfig, command: str) -> None:
    """Let a model write items for a file of requests; the command ``generate-items``.

    Args:
        config: Settings.
        command: What to type to go on after a stop.

    Raises:
        PosttrainError: The requests, the model or the place for the items cannot be used.
        InterruptedRunError: Ctrl-C; what is written so far is kept.
    """
    source = config.requests
    if source.path is None:
        raise ConfigError("requests: the command takes a file", hint="write requests=FILE")
    model = ModelConfig(
        path=find_latest_model(config.model), trust_remote_code=config.trust_remote_code
    )
    if config.out == source.path:
        raise ConfigError("out: is the file of the requests", hint="give another out=FILE")
    list(load_requests(check_file(source.path), limit=source.limit))  # mistakes before the model
    wanted = config.compute
    compute = choose_compute(wanted.device, wanted.precision, wanted.threads)
    compute.apply()
    try:
        summary = write_items(config, model, config.out, compute)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; the items so far are kept", hint=f"go on with: {command}"
        ) from None
    say(f"{summary['items']:,} items in {config.out}")


def write_items(
    settings: ItemWriting, model: ModelConfig, out: Path, compute: Compute
) -> dict[str, Any]:
    """Write the items of all requests that ``out`` does not hold yet.

    Args:
        settings: With the requests' path settled.
        model: Whose model.
        out: JSONL file; rows are ``id``, ``request``, ``content`` (None where there is none),
            ``text``, ``model``, ``seed``, ``digest``, and ``error`` where something went wrong.
        compute: Where.

    Returns:
        Counts: ``items``, ``rejected`` (requests that cannot be put to the model), ``unreadable``
        (texts without an item).

    Raises:
        DataError: A request is none, or too many cannot be put to the model.
        ConfigError: ``out`` holds something else, or another process is writing there.
        CheckpointError: The model cannot be loaded.
    """
    with write_errors(out, "out=FILE"):
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            return _write_missing(settings, model, out, compute)
    except Timeout:
        raise ConfigError(
            f"{out}: another process is writing there", hint="wait for it, or give another out="
        ) from None


def _write_missing(
    settings: ItemWriting, model: ModelConfig, out: Path, compute: Compute
) -> dict[str, Any]:
    orders = list(_list_orders(settings, model))
    rows = _load_written(out, orders)
    if rows:
        say(f"{len(rows):,} of {len(orders):,} items are there already")
    missing = [order for order in orders if order.digest not in rows]
    progress = Progress("items", len(missing), "items")
    if missing:
        write = _open_writer(settings, model, compute)
        for done, order in enumerate(missing, start=1):
            rows[order.digest] = row = {**_describe(order, model), **write(order)}
            with (
                write_errors(out, "out=FILE"),
                out.open("a", encoding="utf-8", errors=_ESCAPE) as file,
            ):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            progress.update(done)
    rejected = [row for row in rows.values() if row["text"] is None]
    unreadable = sum(row["content"] is None for row in rows.values()) - len(rejected)
    if len(rejected) > settings.max_reject_fraction * len(orders):
        raise DataError(
            f"{len(rejected)} of {len(orders)} requests cannot be put to the model; "
            f"{rejected[0]['id']}: {rejected[0]['error']}",
            hint=f"mend them, or raise max_reject_fraction; all reasons are in {out}",
        )
    return {"items": len(rows), "rejected": len(rejected), "unreadable": unreadable}


def _list_orders(settings: ItemWriting, model: ModelConfig) -> Iterator[_Order]:
    source = settings.requests
    assert source.path is not None
    ignored = {"requests", "out", "per_request", "max_reject_fraction", "compute", "model", "name"}
    basis = {**settings.model_dump(mode="json", exclude=ignored), "model": identify_model(model)}
    for name, request in load_requests(source.path, limit=source.limit):
        for number in range(1, settings.per_request + 1):
            item = name if settings.per_request == 1 else f"{name}#{number}"
            seed = int(digest_json([settings.seed, item])[:8], 16)
            digest = digest_json([item, asdict(request), basis])[:16]
            yield _Order(item, request, seed, digest)


def _load_written(out: Path, orders: list[_Order]) -> dict[str, dict[str, Any]]:
    """Read the items of an earlier, stopped pass, and cut off a half-written last line.

    Raises:
        ConfigError: The file holds anything else.
    """
    if not out.exists():
        return {}
    known = {order.digest for order in orders}
    try:
        rows = load_jsonl(out)
        digests = [row["digest"] for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(
            f"{out}: is no file of items", hint="give another out=, or remove it"
        ) from None
    if other := next((n for n, digest in enumerate(digests, 1) if digest not in known), None):
        raise ConfigError(
            f"{out}:{other}: was written for another request, model or setting",
            hint="give another out=, or remove the file",
        )
    text = out.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        with write_errors(out, "out=FILE"):
            out.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return dict(zip(digests, rows, strict=True))


def _describe(order: _Order, model: ModelConfig) -> dict[str, Any]:
    return {
        "id": order.id,
        "request": write_request(order.request),
        "model": model.path,
        "seed": order.seed,
        "digest": order.digest,
    }


def _open_writer(
    settings: ItemWriting, config: ModelConfig, compute: Compute
) -> Callable[[_Order], dict[str, Any]]:
    """Load the model, and return what writes one item: ``content``, ``text``, perhaps ``error``."""
    from posttrain.data.records import RowError
    from posttrain.data.templates import ChatRenderer
    from posttrain.generation.items import ItemRoom, write_item
    from posttrain.items import format_item
    from posttrain.models.load import load_model, load_tokenizer

    tokenizer = load_tokenizer(config)
    ChatRenderer(tokenizer)  # a model without a template is refused before its weights are read
    model = load_model(config, attention="sdpa", dtype=compute.dtype).to(compute.device)
    room = ItemRoom(settings.question_tokens, settings.option_tokens, settings.explanation_tokens)

    def write(order: _Order) -> dict[str, Any]:
        try:
            if settings.constrained:
                item = write_item(
                    model,
                    tokenizer,
                    order.request,
                    seed=order.seed,
                    temperature=settings.temperature,
                    room=room,
                )
                text = format_item(item)
            else:
                text = _write_freely(settings, model, tokenizer, order)
        except RowError as error:
            reason = ": ".join(filter(None, (error.reason, error.detail)))
            return {"content": None, "text": None, "error": reason}
        content, problem = parse_content(text)
        content["stimulus"] = order.request.stimulus
        usable = content["question"] and content["answer_options"] and content["answer"]
        if not content["stimulus"]:
            del content["stimulus"]
        wrong = {"error": problem} if problem else {}
        return {"content": content if usable else None, "text": text, **wrong}

    return write


def _write_freely(settings: ItemWriting, model: Any, tokenizer: Any, order: _Order) -> str:
    from posttrain.data.templates import ChatRenderer
    from posttrain.data.tokens import encode_rendered
    from posttrain.generation.sampling import SamplingOptions, stream_completion
    from posttrain.items import build_item_messages

    renderer = ChatRenderer(tokenizer)
    messages = build_item_messages(order.request)
    prompt = encode_rendered(renderer.render(messages, prompt=True), tokenizer)
    options = SamplingOptions(
        settings.max_new_tokens, temperature=settings.temperature, seed=order.seed
    )
    deltas = stream_completion(model, tokenizer, prompt, options)
    return "".join(delta.text for delta in deltas)
