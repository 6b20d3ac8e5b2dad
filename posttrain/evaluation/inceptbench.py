"""The InceptBench judge of school items, over REST.

Key and base address come from ``INCEPTBENCH_API_KEY`` and ``INCEPTBENCH_BASE_URL`` only; the key is
in no file, message or representation. Every answer is appended to ``inceptbench.jsonl`` as it comes
and kept in the cache by content and judge version, so that a stopped evaluation goes on and an
unchanged item is not paid for twice.

An item without a score is null, never 0: a judge that was busy says nothing about the item.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from posttrain.config.items import InceptBenchConfig
from posttrain.errors import ConfigError, DataError, PosttrainError
from posttrain.evaluation.judgements import Judgement
from posttrain.extras import require_extra
from posttrain.files import cache_root, digest_json, load_json, load_jsonl, write_errors, write_json
from posttrain.logs import Progress

KEY_VARIABLE = "INCEPTBENCH_API_KEY"
ADDRESS_VARIABLE = "INCEPTBENCH_BASE_URL"

_LONGEST_PAUSE_SECONDS = 60.0
_WORTH_A_RETRY = (408, 425, 429)  # and all of 500 to 599
_LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Judge:
    """Where the judge is, and the key to it."""

    address: str = field(repr=False)
    key: str = field(repr=False)


class _NoAnswerError(Exception):
    """An attempt failed.

    Args:
        reason: Why, without the key.
        again: Whether another attempt may help.
        wait_seconds: How long to wait before it, where the judge said so.
        alive: Whether the judge works, and only its answer is not understood.
    """

    def __init__(
        self, reason: str, *, again: bool, wait_seconds: float = 0.0, alive: bool = False
    ) -> None:
        super().__init__(reason)
        self.again, self.wait_seconds, self.alive = again, wait_seconds, alive


def find_judge() -> Judge | None:
    """Read the judge's address and key from the environment.

    Returns:
        The judge, or None where there is no key.

    Raises:
        ConfigError: There is a key and no address, or one that would send it unencrypted.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return None
    address = os.environ.get(ADDRESS_VARIABLE, "").strip().rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        state = "is no http address" if address else "is not set"
        raise ConfigError(
            f"{KEY_VARIABLE} is set, but {ADDRESS_VARIABLE} {state}",
            hint=f"set {ADDRESS_VARIABLE}=https://HOST, or unset the key for the rules alone",
        )
    if parts.scheme == "http" and parts.hostname not in _LOCAL_HOSTS:
        raise ConfigError(
            f"{ADDRESS_VARIABLE}: http would send the key unencrypted", hint="use https"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{KEY_VARIABLE}: holds characters no key has", hint="copy it again")
    return Judge(address, key)


def judge_items(
    items: Sequence[dict[str, Any]], judge: Judge, settings: InceptBenchConfig, folder: Path
) -> list[Judgement]:
    """Ask the judge about every item.

    Args:
        items: ``id``, ``request`` and ``content`` each, in InceptBench's shape.
        judge: Where to ask.
        settings: How.
        folder: For ``inceptbench.jsonl``; the answers that lie there are not asked for again.

    Returns:
        One judgement per item and repeat, items in order.

    Raises:
        MissingExtraError: httpx is not installed.
        DataError: Two items have one id.
        ConfigError: The judge refuses the key.
        PosttrainError: The judge cannot be reached at all.
    """
    require_extra("httpx", "inceptbench")
    ids = [item["id"] for item in items]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"two items have the id `{twice}`", hint="give every item an id of its own")
    return asyncio.run(_Session(judge, settings, folder / "inceptbench.jsonl").run(items))


class _Session:
    """One pass over the items."""

    def __init__(self, judge: Judge, settings: InceptBenchConfig, path: Path) -> None:
        self._judge, self._settings, self._path = judge, settings, path
        self._httpx = require_extra("httpx", "inceptbench")
        self._version: str | None = None
        self._found: dict[tuple[str, int], Judgement] = {}

    async def run(self, items: Sequence[dict[str, Any]]) -> list[Judgement]:
        work = [(item, repeat) for repeat in range(self._settings.repeats) for item in items]
        progress = Progress("inceptbench", len(work), "answers")
        client = self._httpx.AsyncClient(
            base_url=self._judge.address,
            headers={"Authorization": f"Bearer {self._judge.key}"},
            timeout=self._settings.timeout_seconds,
        )
        earlier = self._load_earlier()
        with write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = self._path.open("a", encoding="utf-8")

        async def work_off(todo: Iterator[tuple[dict[str, Any], int]]) -> None:
            for item, repeat in todo:  # shared by all workers
                digest = self._digest(item, repeat)
                found = self._find_known(digest, earlier)
                if found:
                    found = replace(found, id=item["id"], repeat=repeat, digest=digest, cached=True)
                else:
                    found = await self._ask(client, Judgement(item["id"], repeat, digest), item)
                    self._keep(found)
                if digest not in earlier or earlier[digest].judge_version != found.judge_version:
                    with write_errors(self._path):
                        file.write(json.dumps(asdict(found)) + "\n")
                        file.flush()
                self._found[item["id"], repeat] = found
                progress.update(len(self._found))

        with file:
            async with client:
                self._version = await self._ask_version(client)
                todo = iter(work)
                if self._version is None:  # the first fresh answer tells it
                    await work_off(itertools.islice(todo, 1))
                workers = [
                    asyncio.create_task(work_off(todo)) for _ in range(self._settings.concurrency)
                ]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)
        return [self._found[item["id"], n] for item in items for n in range(self._settings.repeats)]

    def _find_known(self, digest: str, earlier: dict[str, Judgement]) -> Judgement | None:
        """Find an answer of the judge's present version in the results' file or in the cache."""
        if self._version is None:
            return None
        known = earlier.get(digest)
        if known and known.judge_version == self._version:
            return known
        try:
            return Judgement(**load_json(_cache_path(digest, self._version)))
        except (OSError, ValueError, TypeError):
            return None  # absent, or of another version of ours: ask again

    def _keep(self, found: Judgement) -> None:
        # What it says with an answer holds from there on, should it be exchanged meanwhile.
        self._version = found.judge_version or self._version
        if found.error is None and found.judge_version:
            write_json(_cache_path(found.digest, found.judge_version), asdict(found))

    def _digest(self, item: dict[str, Any], repeat: int) -> str:
        return digest_json([self._judge.address, item["request"], item["content"], repeat])

    def _load_earlier(self) -> dict[str, Judgement]:
        """What an interrupted pass has left: answers, as against failures."""
        if not self._path.is_file():
            return {}
        rows = [Judgement(**row) for row in load_jsonl(self._path)]
        # A killed writer may have left half a line; the next one must not go on in it.
        with write_errors(self._path):
            text = self._path.read_text(encoding="utf-8")
            self._path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        return {row.digest: row for row in rows if row.error is None}

    async def _ask_version(self, client: Any) -> str | None:
        """Judge version as ``GET /health`` tells it, or None; a dead judge ends everything here."""
        for attempt in range(1, self._settings.tries + 1):
            try:
                answer = await self._fetch(client, "GET", "/health", None)
                break
            except _NoAnswerError as error:
                if error.alive or not error.again:  # the evaluation itself will tell
                    return None
                if attempt == self._settings.tries:
                    raise PosttrainError(
                        f"inceptbench: the judge does not answer: {error}",
                        hint=f"check {ADDRESS_VARIABLE} and the network, then run again",
                    ) from None
                await self._pause(attempt, error.wait_seconds)
        version = answer.get("inceptbench_version")
        return str(version) if version else None

    async def _ask(self, client: Any, blank: Judgement, item: dict[str, Any]) -> Judgement:
        """Ask about one item until there is an answer or the attempts are spent."""
        body = {"generated_content": [{k: item[k] for k in ("id", "request", "content")}]}
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._fetch(client, "POST", "/evaluate", body)
                return replace(_read_answer(answer, blank), tries=attempt)
            except _NoAnswerError as error:
                if not error.again or attempt == self._settings.tries:
                    return replace(blank, error=str(error), tries=attempt)
                await self._pause(attempt, error.wait_seconds)

    async def _pause(self, attempt: int, asked_seconds: float) -> None:
        """Wait longer each time, and not in step with the other workers."""
        longest = min(self._settings.retry_seconds * 2 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(max(asked_seconds, longest * random.uniform(0.5, 1.0)))

    async def _fetch(self, client: Any, method: str, path: str, body: Any) -> dict[str, Any]:
        """Send one request.

        Raises:
            ConfigError: The key is refused.
            _NoAnswerError: Anything else but a JSON object.
        """
        try:
            # httpx's own limits are per read; a judge that drips bytes would never meet them.
            async with asyncio.timeout(self._settings.timeout_seconds):
                response = await client.request(method, path, json=body)
        except (TimeoutError, self._httpx.TimeoutException):
            limit = self._settings.timeout_seconds
            raise _NoAnswerError(f"no answer within {limit:g} s", again=True) from None
        except self._httpx.TransportError as error:
            reason = self._redact(str(error)) or type(error).__name__
            raise _NoAnswerError(f"no connection: {reason}", again=True) from None
        # A judge that repeats its request in an answer must not bring the key into our files.
        text, status = self._redact(response.text), response.status_code
        if status in (401, 403):
            raise ConfigError(
                f"inceptbench: the judge refuses the key (status {status})",
                hint=f"check {KEY_VARIABLE}",
            )
        if status != 200:
            again = status in _WORTH_A_RETRY or status >= 500
            wait = _parse_seconds(response.headers.get("retry-after", ""))
            shown = " ".join(text.split())[:200]
            reason = f"status {status}" + (f": {shown}" if shown else "")
            raise _NoAnswerError(reason, again=again, wait_seconds=wait)
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise _NoAnswerError("the answer is no valid JSON", again=True, alive=True) from None
        if not isinstance(answer, dict):
            raise _NoAnswerError("the answer is no JSON object", again=True, alive=True)
        return answer

    def _redact(self, text: str) -> str:
        return text.replace(self._judge.key, "[key]")


def _cache_path(digest: str, version: str) -> Path:
    return cache_root() / "inceptbench" / digest_json([version, digest])[:40] / "answer.json"


def _parse_seconds(text: str) -> float:
    """A ``Retry-After`` header in seconds; its other form, a date, counts as none."""
    return min(float(text), _LONGEST_PAUSE_SECONDS) if text.isdigit() else 0.0


def _read_answer(answer: dict[str, Any], blank: Judgement) -> Judgement:
    """Take one item's evaluation out of a response.

    Raises:
        _NoAnswerError: The item failed, is not there, or has no usable score.
    """
    for failed in answer.get("failed_items") or ():
        if isinstance(failed, dict) and failed.get("item_id") == blank.id:
            raise _NoAnswerError(f"the judge failed: {failed.get('error')}"[:300], again=True)
    evaluations = answer.get("evaluations")
    found = evaluations.get(blank.id) if isinstance(evaluations, dict) else None
    overall = found.get("overall") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(overall, dict):
        raise _NoAnswerError("the answer leaves this item out", again=True)
    score = overall.get("score")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise _NoAnswerError(f"the answer has no score from 0 to 1: {score!r}"[:200], again=True)
    version = answer.get("inceptbench_version")
    metrics = {name: value for name, value in found.items() if isinstance(value, dict)}
    rating = found.get("overall_rating")
    return replace(
        blank,
        score=float(score),
        judge_version=str(version) if version else None,
        judge_rating=rating if isinstance(rating, str) else None,
        metrics=metrics,
    )
