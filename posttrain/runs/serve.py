"""Serve a model over HTTP."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

from posttrain.config.model import ModelConfig
from posttrain.config.serving import ServeConfig
from posttrain.errors import ConfigError
from posttrain.extras import require_extra
from posttrain.logs import say, show
from posttrain.runs.find import find_latest_model
from posttrain.runtime import choose_compute

_KEY_VARIABLE = "POSTTRAIN_API_KEY"
_STOP_SECONDS = 10.0


def serve_model(config: ServeConfig) -> None:
    """Load a model and answer requests until Ctrl-C or SIGTERM.

    Args:
        config: The command's settings.

    Raises:
        PosttrainError: The model cannot be loaded, the address cannot be taken, or it is open to
            others without a key.
    """
    require_extra("fastapi", "serve")
    require_extra("uvicorn", "serve")
    from posttrain.serving.app import ServedModel, build_app
    from posttrain.serving.engine import Engine
    from posttrain.serving.server import ModelServer, bind_socket

    api_key = os.environ.get(_KEY_VARIABLE, "").strip() or None
    check_exposure(config.host, api_key)
    with bind_socket(config.host, config.port) as listener:
        model, tokenizer = _load(config)
        served = ServedModel(model, tokenizer, config.name or _typed_name(config.model), config)
        engine = Engine(
            max_running=config.max_running,
            max_waiting=config.max_waiting,
            timeout_seconds=config.timeout_seconds,
        )
        host = f"[{config.host}]" if ":" in config.host else config.host
        address = f"http://{host}:{listener.getsockname()[1]}/v1"
        app = build_app(served, engine, config, api_key=api_key)
        server = ModelServer(
            app,
            engine,
            lambda: show(f"serving {served.name} on {address} (Ctrl-C ends)"),
            log_requests=config.log_requests,
        )
        engine.start()
        try:
            server.run(sockets=[listener])
        finally:
            engine.stop()
            engine.join(_STOP_SECONDS)
    say("stopped")


def check_exposure(host: str, api_key: str | None) -> None:
    """Refuse to be open to other machines without a key.

    Args:
        host: Address to listen on.
        api_key: The key, if there is one.

    Raises:
        ConfigError: There is none, and the address is not this machine's own.
    """
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if not own and not api_key:
        raise ConfigError(
            f"host={host} would let other machines use this model without a key",
            hint=f"set the environment variable {_KEY_VARIABLE}, or leave host at 127.0.0.1",
        )


def _load(config: ServeConfig) -> tuple[Any, Any]:
    from posttrain.models.load import load_model, load_tokenizer
    from posttrain.models.trained_template import compare_templates, digest_template

    compute = choose_compute(config.device, "fp32", config.threads)
    compute.apply()
    dtype = config.dtype
    if dtype == "auto":
        dtype = "bfloat16" if compute.device == "cuda" else "float32"
    source = ModelConfig(
        path=find_latest_model(config.model),
        chat_template=config.chat_template,
        trust_remote_code=config.trust_remote_code,
    )
    tokenizer = load_tokenizer(source)
    model = load_model(source, attention="sdpa", dtype=dtype).to(compute.device)
    if tokenizer.chat_template:
        compare_templates(source.path, digest_template(tokenizer))
    say(f"loaded {source.path} as {dtype} on {compute.device}, {compute.threads} threads")
    return model, tokenizer


def _typed_name(model: str) -> str:
    """The model's name without the folders around it, which are nobody's business."""
    path = Path(model)
    if not path.is_absolute():
        return model
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
