"""The server's routes: OpenAI's chat and completions, items, the model list, health."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse

from posttrain.config.serving import ServeConfig
from posttrain.data.records import RowError
from posttrain.data.templates import ChatRenderer
from posttrain.data.tokens import encode_rendered
from posttrain.errors import ConfigError, PosttrainError
from posttrain.generation.endings import find_context
from posttrain.generation.items import WrittenItem, stream_item
from posttrain.generation.sampling import Delta, stream_completion
from posttrain.serving.engine import Engine, Job
from posttrain.serving.limits import ApiError, Gate, answer_error, describe_error
from posttrain.serving.mcq import McqRequest, answer_item
from posttrain.serving.schema import (
    ChatRequest,
    CompletionRequest,
    Reply,
    WritingRequest,
    count_usage,
)

_LOOK_SECONDS = 0.1  # between two looks whether a client is still there


class ServedModel:
    """A model that answers requests.

    All work happens in the steps it gives, which the engine's one thread does: tokenizers and
    models are not made to be used by several.

    Args:
        model: A causal model in evaluation mode.
        tokenizer: Its tokenizer.
        name: What clients call it.
        config: The limits.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, config: ServeConfig) -> None:
        self.name = name
        self.created = int(time.time())
        self._model, self._tokenizer, self._config = model, tokenizer, config
        self._renderer = ChatRenderer(tokenizer) if tokenizer.chat_template else None
        self._context = find_context(model)

    def write(self, request: WritingRequest) -> Iterator[int | Delta]:
        """Steps of a completion: the number of prompt tokens, then what is written."""
        if isinstance(request, ChatRequest):
            prompt = self._encode_chat([message.to_message() for message in request.messages])
        else:
            assert isinstance(request, CompletionRequest)
            prompt = list(self._tokenizer(request.prompt)["input_ids"])
        if not prompt:
            raise ApiError(400, "the prompt has no tokens", param="prompt")
        options = request.to_options(self._check_room(len(prompt), request.wanted_tokens))
        yield len(prompt)
        yield from stream_completion(self._model, self._tokenizer, prompt, options)

    def write_item(self, request: McqRequest) -> Iterator[WrittenItem | None]:
        """Steps of an item; the last one is the item."""
        try:
            yield from stream_item(
                self._model,
                self._tokenizer,
                request.to_item_request(),
                seed=request.seed,
                temperature=request.temperature,
            )
        except (RowError, ConfigError) as error:
            raise _explain(error) from error

    def check_name(self, name: str | None) -> None:
        """Refuse requests for another model.

        Raises:
            ApiError: Status 404.
        """
        if name is not None and name != self.name:
            raise ApiError(
                404,
                f"no model {json.dumps(name)} here; this server has {json.dumps(self.name)}",
                code="model_not_found",
                param="model",
            )

    def describe(self) -> dict[str, Any]:
        """The model as the model list shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "posttrain",
        }

    def _encode_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        if self._renderer is None:
            raise ApiError(400, "this model has no chat template; use /v1/completions")
        try:
            # In a chat, a special token is somebody's text: it must not pass as a turn of its own.
            return encode_rendered(self._renderer.render(messages, prompt=True), self._tokenizer)
        except RowError as error:
            raise _explain(error, param="messages") from error

    def _check_room(self, prompt_tokens: int, wanted: int | None) -> int:
        """Tokens that may be written."""
        most = self._config.max_tokens
        if wanted is not None and wanted > most:
            raise ApiError(
                400, f"max_tokens {wanted} is above this server's {most}", param="max_tokens"
            )
        room = self._context - prompt_tokens if self._context else most
        if room < (wanted or 1):
            asked = f" and max_tokens {wanted}" if wanted else ""
            raise ApiError(
                400,
                f"the prompt's {prompt_tokens} tokens{asked} are more than the model's context "
                f"of {self._context}",
                code="context_length_exceeded",
                param="max_tokens" if room > 0 else "messages",
            )
        return wanted or min(self._config.default_max_tokens, most, room)


def build_app(
    served: ServedModel, engine: Engine, config: ServeConfig, *, api_key: str | None
) -> FastAPI:
    """Build the server.

    Args:
        served: The model.
        engine: Started.
        config: Limits.
        api_key: Needed for all routes below ``/v1`` where it is set.

    Returns:
        An ASGI application.
    """
    # No pages with the documentation: they would load scripts from elsewhere.
    app = FastAPI(title="posttrain", docs_url=None, redoc_url=None)
    hosts = {"127.0.0.1", "localhost", "[::1]", config.host}
    app.add_middleware(Gate, api_key=api_key, hosts=hosts, max_body_bytes=config.max_body_bytes)
    app.add_exception_handler(HTTPException, _answer_refused)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(PosttrainError, _answer_failed)
    app.add_exception_handler(Exception, _answer_failed)

    async def answer(body: WritingRequest, request: Request) -> Response:
        served.check_name(body.model)
        job = engine.submit(served.write(body))
        reply = Reply(served.name, chat=isinstance(body, ChatRequest))
        async with _until_gone(request, job):
            events = job.events()
            prompt_tokens: int = await anext(events)
            if not body.stream:
                return JSONResponse(await _collect(events, prompt_tokens, reply))
        with_usage = body.stream_options.include_usage
        stream = _stream(events, prompt_tokens, reply, with_usage=with_usage)
        return StreamingResponse(
            _guard(stream, request, job),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await answer(body, request)

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await answer(body, request)

    @app.post("/v1/mcq")
    async def mcq(body: McqRequest, request: Request) -> Response:
        served.check_name(body.model)
        job = engine.submit(served.write_item(body))
        async with _until_gone(request, job):
            async for event in job.events():
                written = event
        return JSONResponse(answer_item(written, served.name))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.describe()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        served.check_name(name)
        return served.describe()

    @app.get("/health")
    async def health() -> Response:
        alive = engine.alive
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    @app.get("/")
    async def start() -> dict[str, Any]:
        routes = ["/v1/chat/completions", "/v1/completions", "/v1/mcq", "/v1/models", "/health"]
        return {"name": "posttrain", "routes": [*routes, "/openapi.json"]}

    return app


async def _collect(
    events: AsyncIterator[Delta], prompt_tokens: int, reply: Reply
) -> dict[str, Any]:
    texts = []
    async for delta in events:
        texts.append(delta.text)
    usage = count_usage(prompt_tokens, delta.token_count)
    return reply.whole("".join(texts), delta.finish_reason, usage)


async def _stream(
    events: AsyncIterator[Delta], prompt_tokens: int, reply: Reply, *, with_usage: bool
) -> AsyncIterator[str]:
    try:
        yield _event(reply.chunk("", first=True))
        async for delta in events:
            if delta.text:
                yield _event(reply.chunk(delta.text))
        yield _event(reply.chunk("", delta.finish_reason))
        if with_usage:
            yield _event(reply.usage_chunk(count_usage(prompt_tokens, delta.token_count)))
    except HTTPException as error:  # too late for a status
        yield _event(describe_error(error))
    except PosttrainError as error:
        yield _event(describe_error(ApiError(500, str(error))))
    yield "data: [DONE]\n\n"


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _guard(stream: AsyncIterator[str], request: Request, job: Job) -> AsyncIterator[str]:
    async with _until_gone(request, job):
        async for line in stream:
            yield line


@contextlib.asynccontextmanager
async def _until_gone(request: Request, job: Job) -> AsyncIterator[None]:
    """Cancel a job when its client is gone, or when the block is left with an error."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(_LOOK_SECONDS)
        job.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except BaseException:
        job.cancel()
        raise
    finally:
        watcher.cancel()


def _explain(error: RowError | ConfigError, param: str | None = None) -> ApiError:
    detail = getattr(error, "detail", "")
    return ApiError(400, f"{error}: {detail}" if detail else str(error), param=param)


async def _answer_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer_error(error)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """One line about the first mistake; the request's texts are not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        message, place = f"the body is not JSON: {first['ctx']['error']}", ""
    elif first["loc"] == ("body",):
        message = "the body is not a JSON object; send it with Content-Type: application/json"
    else:
        message = f"{place}: {first['msg']}"
    return answer_error(ApiError(400, message, param=place or None))


async def _answer_failed(request: Request, error: Exception) -> Response:
    message = str(error) if isinstance(error, PosttrainError) else "internal error"
    return answer_error(ApiError(500, message))
