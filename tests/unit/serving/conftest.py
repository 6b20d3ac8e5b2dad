"""A real server on a free port, in a thread of the test process."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.config.serving import ServeConfig
from posttrain.models.tiny import ensure_tiny
from posttrain.serving.app import ServedModel, build_app
from posttrain.serving.engine import Engine
from posttrain.serving.server import ModelServer, bind_socket


@dataclass
class Served:
    """A running server."""

    url: str
    server: ModelServer
    key: str = "none"

    @contextlib.contextmanager
    def client(self, key: str | None = None) -> Iterator[openai.OpenAI]:
        """OpenAI's own client, which shall not try again."""
        base = f"{self.url}/v1"
        with openai.OpenAI(
            base_url=base, api_key=key or self.key, max_retries=0, timeout=60
        ) as client:
            yield client


Start = Callable[..., contextlib.AbstractContextManager[Served]]


@pytest.fixture(scope="session")
def model(cache_dir) -> Any:
    """The built-in model, made lively; its end token is likely at times."""
    made = AutoModelForCausalLM.from_pretrained(ensure_tiny("tiny")).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="session")
def start(model, tiny_tokenizer) -> Start:
    """Start a server with settings."""

    @contextlib.contextmanager
    def run(api_key: str | None = None, tokenizer: Any = None, **settings: Any) -> Iterator[Served]:
        config = ServeConfig(model="tiny", port=0, **settings)
        engine = Engine(
            max_running=config.max_running,
            max_waiting=config.max_waiting,
            timeout_seconds=config.timeout_seconds,
        )
        served = ServedModel(model, tokenizer or tiny_tokenizer, "tiny", config)
        app = build_app(served, engine, config, api_key=api_key)
        ready = threading.Event()
        with bind_socket(config.host, 0) as listener:
            server = ModelServer(app, engine, ready.set, log_requests=False)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            engine.start()
            thread.start()
            try:
                assert ready.wait(20)
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                yield Served(url, server, api_key or "none")
            finally:
                server.stop()
                thread.join(10)
                engine.join(10)
        assert not thread.is_alive()

    return run


@pytest.fixture(scope="session")
def served(start) -> Iterator[Served]:
    """A server with usual settings, for all tests that need no others."""
    with start(max_tokens=3000) as running:
        yield running
