"""What is refused before a model sees it: wrong keys, foreign hosts, large bodies; and how."""

from __future__ import annotations

import hmac
import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


class ApiError(HTTPException):
    """A request that is refused, in the shape of OpenAI's errors.

    Args:
        status: Of HTTP.
        message: What is wrong, and what to do.
        code: Short name for programs.
        param: The field that is wrong.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail=message, headers=headers)
        self.code = code
        self.param = param


def describe_error(error: HTTPException) -> dict[str, Any]:
    """The body of an error's answer."""
    fallback = "server_error" if error.status_code >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": _readable(error.detail),
            "type": _TYPES.get(error.status_code, fallback),
            "param": _readable(getattr(error, "param", None)),
            "code": getattr(error, "code", None),
        }
    }


def _readable(text: str | None) -> str | None:
    """A text that can be sent; a field's name may hold what is no Unicode."""
    return text and text.encode(errors="replace").decode()


def answer_error(error: HTTPException) -> JSONResponse:
    """The answer for an error."""
    return JSONResponse(describe_error(error), error.status_code, headers=error.headers)


class Gate:
    """Checks key, host and size of each request before anything else.

    Args:
        app: What is behind it.
        api_key: Needed below ``/v1`` where it is set; compared in constant time.
        hosts: Names this server may be called by where no key protects it; None for any. A web
            page whose name was pointed at this machine would come with its own.
        max_body_bytes: Largest request.
    """

    def __init__(
        self, app: ASGIApp, *, api_key: str | None, hosts: set[str] | None, max_body_bytes: int
    ) -> None:
        self._app, self._hosts, self._max_body_bytes = app, hosts, max_body_bytes
        self._expected = f"Bearer {api_key}".encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with an error, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            await answer_error(error)(scope, receive, send)
            return
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        await self._app(scope, receive_some, send)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        host = _strip_port(headers.get(b"host", b"").decode("latin-1"))
        if self._expected is None and self._hosts is not None and host not in self._hosts:
            raise ApiError(403, f"this server does not answer to the name {json.dumps(host)}")
        if self._expected is not None and scope["path"].startswith("/v1"):
            shown = headers.get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._expected):
                raise ApiError(
                    401,
                    "no or wrong API key; send `Authorization: Bearer KEY`",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the request is larger than {self._max_body_bytes} bytes",
            code="request_too_large",
        )


def _strip_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
