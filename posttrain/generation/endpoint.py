"""The `openai` back end: any endpoint that speaks OpenAI's protocol writes."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from posttrain.config.generation import OpenAIBackEnd
from posttrain.data.records import Message
from posttrain.errors import ConfigError, PosttrainError
from posttrain.extras import require_extra
from posttrain.generation.generator import Completion, GenerationOptions, GenerationRequest

_LONGEST_PAUSE_SECONDS = 60.0
_LONGEST_ASKED_PAUSE_SECONDS = 600.0
_WORTH_A_RETRY = (408, 409, 425, 429)
_SECRET_CHARACTERS = 12
"""A shorter key is a dummy such as EMPTY, or 1234: an answer may well have it in it."""
_MISSHAPEN = (KeyError, IndexError, TypeError, AttributeError, ValueError)
Answer = TypeVar("Answer")


class _NoAnswerError(Exception):
    """A request was not answered.

    Args:
        reason: Why.
        again: Whether to ask again.
        wait_seconds: Pause that the endpoint asks for.
    """

    def __init__(self, reason: str, *, again: bool, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.again, self.wait_seconds = again, wait_seconds


class EndpointGenerator:
    """Asks an endpoint for completions, several at a time.

    Args:
        settings: Where and how to ask.
        decode: Writes token ids as text, special tokens included; needed for ``format: text``.

    Raises:
        MissingExtraError: httpx is not installed.
        ConfigError: The endpoint refuses the key, or lists no model.
        PosttrainError: The endpoint cannot be reached.
    """

    def __init__(
        self, settings: OpenAIBackEnd, decode: Callable[[Sequence[int]], str] | None = None
    ) -> None:
        self._settings, self._decode = settings, decode
        self._httpx = require_extra("httpx", "openai")
        self._key = _read_key(settings.key_variable)
        self.model = settings.model or asyncio.run(self._reach("/models", None, _read_models))
        """What the endpoint calls the model."""
        self.about = {"backend": "openai", "address": settings.address, "model": self.model}
        """For the results."""

    def generate(
        self, requests: Sequence[GenerationRequest], options: GenerationOptions
    ) -> Iterator[tuple[int, Completion]]:
        """Ask for one completion per request; see ``Generator``.

        Requests are on their way while the next completion is waited for.

        Raises:
            ConfigError: The endpoint refuses the key, or does not know the model.
        """
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            client = self._connect()
            turns = asyncio.Semaphore(self._settings.concurrency)
            tasks = {
                loop.create_task(self._write(client, turns, request, options)): index
                for index, request in enumerate(requests)
            }
            pending = set(tasks)
            try:
                while pending:
                    done, pending = runner.run(_wait_for_one(pending))
                    for task in done:
                        yield tasks[task], task.result()
            finally:
                for task in pending:
                    task.cancel()
                runner.run(_finish(tasks, client))

    def check(self) -> None:
        """Ask for one token, to find a mistake before anything is begun.

        Raises:
            ConfigError: The endpoint refuses the key, or does not know the model.
            PosttrainError: It does not answer.
        """
        path = "/completions"
        body: dict[str, Any] = {"model": self.model, "max_tokens": 1, "temperature": 0.0}
        if self._settings.format == "chat":
            path = "/chat/completions"
            body["messages"] = [{"role": "user", "content": "1"}]
        else:
            body["prompt"] = "1"
        asyncio.run(self._reach(path, body | self._settings.extra_body, dict))

    def close(self) -> None:
        """Nothing is held between calls."""

    def _connect(self) -> Any:
        return self._httpx.AsyncClient(
            base_url=self._settings.address.rstrip("/"),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=self._settings.timeout_seconds,
            limits=self._httpx.Limits(max_connections=self._settings.concurrency),
        )

    async def _reach(
        self, path: str, body: Any, read: Callable[[dict[str, Any]], Answer]
    ) -> Answer:
        """Ask once for what nothing can be done without; see ``_insist``."""
        try:
            async with self._connect() as client:
                return await self._insist(client, path, body, read)
        except _NoAnswerError as error:
            raise PosttrainError(
                f"{self._settings.address}: no answer: {error}",
                hint="check that it runs, generator.address and generator.model; the same command "
                "goes on",
            ) from None

    async def _write(
        self,
        client: Any,
        turns: asyncio.Semaphore,
        request: GenerationRequest,
        options: GenerationOptions,
    ) -> Completion:
        chat = self._settings.format == "chat"
        path = "/chat/completions" if chat else "/completions"
        async with turns:
            started = time.perf_counter()
            try:
                body = self._build_body(request, options)
                read = _read_chat if chat else _read_text
                completion = await self._insist(client, path, body, read)
            except _NoAnswerError as error:
                completion = Completion("", 0, False, failure=str(error))
            return replace(completion, seconds=time.perf_counter() - started)

    def _build_body(self, request: GenerationRequest, options: GenerationOptions) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
        }
        if options.temperature:
            body["seed"] = request.seed % 2**31
            body |= {"top_p": options.top_p} if options.top_p < 1 else {}
            body |= {"top_k": options.top_k} if options.top_k else {}
        if options.stop:
            body["stop"] = list(options.stop)
        if self._settings.format == "text":
            assert self._decode is not None
            body["prompt"] = self._decode(request.token_ids)
        else:
            if request.messages is None:
                raise _NoAnswerError("the prompt is no conversation; set format: text", again=False)
            body["messages"] = _to_wire(request.messages)
            body |= {"tools": list(request.tools)} if request.tools else {}
        return body | self._settings.extra_body

    async def _insist(
        self, client: Any, path: str, body: Any, read: Callable[[dict[str, Any]], Answer]
    ) -> Answer:
        """Ask until there is an answer that can be read, or the attempts are spent.

        Args:
            client: Connections.
            path: Behind the address.
            body: To post; None gets.
            read: Takes out of the answer what is wanted.

        Raises:
            ConfigError: The key is refused, or the model unknown.
            _NoAnswerError: There is none.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = await self._fetch(client, path, body)
                return read(answer)
            except _NoAnswerError as error:
                if not error.again or attempt == self._settings.tries:
                    raise
                longest = self._settings.retry_seconds * 2 ** (attempt - 1)
                longest = min(longest, _LONGEST_PAUSE_SECONDS)
                # Longer each time, and not in step with the other requests.
                await asyncio.sleep(max(error.wait_seconds, longest * random.uniform(0.5, 1.0)))

    async def _fetch(self, client: Any, path: str, body: Any) -> dict[str, Any]:
        """Send one request."""
        limit = self._settings.timeout_seconds
        try:
            # httpx's own limits are per read; an endpoint that drips would never meet them.
            async with asyncio.timeout(limit):
                method = "GET" if body is None else "POST"
                response = await client.request(method, path, json=body)
        except (TimeoutError, self._httpx.TimeoutException):
            raise _NoAnswerError(f"no answer within {limit:g} s", again=True) from None
        except (self._httpx.TransportError, self._httpx.DecodingError) as error:
            reason = self._redact(str(error)) or type(error).__name__
            raise _NoAnswerError(f"no connection: {reason}", again=True) from None
        # An endpoint that repeats its request in an answer must not bring the key into our files.
        text = self._redact(response.text)
        self._check_status(response, text)
        if len(self._key) < _SECRET_CHARACTERS:
            text = response.text
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise _NoAnswerError("the answer is no valid JSON", again=True) from None
        if not isinstance(answer, dict):
            raise _NoAnswerError("the answer is no JSON object", again=True)
        return answer

    def _check_status(self, response: Any, text: str) -> None:
        status = response.status_code
        if status == 200:
            return
        shown = " ".join(text.split())[:200]
        reason = f"status {status}" + (f": {shown}" if shown else "")
        if status in (401, 403):
            raise ConfigError(
                f"{self._settings.address}: the key is refused ({reason})",
                hint=f"check the environment variable {self._settings.key_variable}",
            )
        if status == 404:
            raise ConfigError(
                f"{self._settings.address}: unknown address or model ({reason})",
                hint="check generator.address, which ends with /v1, and generator.model",
            )
        again = status in _WORTH_A_RETRY or status >= 500
        wait = _parse_wait(response.headers.get("retry-after", ""))
        raise _NoAnswerError(reason, again=again, wait_seconds=wait)

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _read_key(variable: str) -> str:
    """Read the key; a line break behind it, as of a file, is no part of it.

    Raises:
        ConfigError: It has characters that no header can have.
    """
    key = os.environ.get(variable, "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(
            f"the environment variable {variable} has characters that no key has",
            hint="give the key alone, in one line",
        )
    return key


def _parse_wait(text: str) -> float:
    """A ``Retry-After`` header, seconds or a date, in seconds from now."""
    if text.strip().isdigit():
        return min(float(text), _LONGEST_ASKED_PAUSE_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return min(max(0.0, moment.timestamp() - time.time()), _LONGEST_ASKED_PAUSE_SECONDS)


def _to_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation as the protocol has it: arguments of calls are text, and calls have ids.

    Results follow their calls in order, and so do the ids.
    """
    wires, open_ids = [], []
    for place, message in enumerate(messages):
        wire = {name: value for name, value in message.items() if value is not None}
        calls = []
        for number, call in enumerate(message.get("tool_calls") or ()):
            function = call["function"]
            made = {"name": function["name"], "arguments": _to_text(function.get("arguments", {}))}
            name = call.get("id") or f"call_{place}_{number}"
            calls.append({"id": name, "type": "function", "function": made})
            open_ids.append(name)
        if calls:
            wire |= {"content": message.get("content"), "tool_calls": calls}
        if message["role"] == "tool" and open_ids:
            wire["tool_call_id"] = message.get("tool_call_id") or open_ids[0]
            open_ids = [name for name in open_ids if name != wire["tool_call_id"]]
        wires.append(wire)
    return wires


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_models(answer: dict[str, Any]) -> str:
    try:
        return str(answer["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise _NoAnswerError("it lists no model", again=False) from None


def _read_chat(answer: dict[str, Any]) -> Completion:
    """Take the completion out of an answer to messages.

    Calls that the endpoint has parsed are written out in tags again, as a model writes them.

    Raises:
        _NoAnswerError: There is none in it.
    """
    try:
        message = answer["choices"][0]["message"]
        parts = [message.get("content") or ""]
        for call in message.get("tool_calls") or ():
            arguments = _to_text(call["function"].get("arguments") or {})
            name = json.dumps(call["function"]["name"], ensure_ascii=False)
            parts.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
        return _build_completion("\n".join(filter(None, parts)), answer)
    except _MISSHAPEN:
        raise _NoAnswerError("the answer has no completion", again=True) from None


def _read_text(answer: dict[str, Any]) -> Completion:
    """Take the completion out of an answer to a prompt.

    Raises:
        _NoAnswerError: There is none in it.
    """
    try:
        return _build_completion(str(answer["choices"][0]["text"]), answer)
    except _MISSHAPEN:
        raise _NoAnswerError("the answer has no completion", again=True) from None


def _build_completion(text: str, answer: dict[str, Any]) -> Completion:
    tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
    return Completion(text, tokens, answer["choices"][0].get("finish_reason") != "length")


async def _wait_for_one(tasks: set[asyncio.Task[Completion]]) -> Any:
    return await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def _finish(tasks: Iterable[asyncio.Task[Completion]], client: Any) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
