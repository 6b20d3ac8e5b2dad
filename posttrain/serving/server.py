"""A uvicorn server on a socket of ours, which says when it is ready and ends at once."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from posttrain.errors import ConfigError
from posttrain.serving.engine import Engine

_LAST_ANSWERS_SECONDS = 2  # for the last error to reach each client


def bind_socket(host: str, port: int) -> socket.socket:
    """Reserve an address; nobody can connect before the server listens on it.

    Args:
        host: A name or an address.
        port: 0 for any free one.

    Returns:
        A bound socket.

    Raises:
        ConfigError: The address is in use, not allowed, or not of this machine.
    """
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound:
            bound.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="choose another port=NUMBER, or port=0 for a free one",
        ) from error
    return bound


class ModelServer(uvicorn.Server):
    """A server that ends with its engine.

    Args:
        app: The application.
        engine: Stopped at a signal, so that no answer holds up the end.
        announce: Called when requests are accepted.
        log_requests: Whether to write a line per request.
    """

    def __init__(
        self, app: ASGIApp, engine: Engine, announce: Callable[[], None], *, log_requests: bool
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_level="info" if log_requests else "warning",
                access_log=log_requests,
                server_header=False,
                timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
            )
        )
        self._engine, self._announce = engine, announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._announce()

    def stop(self) -> None:
        """End all answers and then the server."""
        self._engine.stop()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take Ctrl-C and SIGTERM as the wish to end, which is no error."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.stop()

        before: dict[int, Any] = {
            n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
