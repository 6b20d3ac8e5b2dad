"""What must not happen: strangers, floods, requests that never end, a server that does not."""

import contextlib
import json
import threading
import time

import httpx
import openai
import pytest

from posttrain.errors import ConfigError
from posttrain.runs.serve import check_exposure
from posttrain.serving.server import bind_socket

LONG = {"model": "tiny", "prompt": "Tom has", "max_tokens": 4000, "temperature": 0.5, "seed": 0}
SHORT = {"model": "tiny", "prompt": "Tom has", "max_tokens": 3, "temperature": 0}


def eventually_free(client, seconds: float = 5) -> bool:
    """Whether a short request gets through before long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            client.completions.create(**SHORT)
        except openai.RateLimitError:
            time.sleep(0.1)
        else:
            return True
    return False


def test_key_is_needed_below_v1_only(start):
    with start(api_key="s3cret") as served:
        with served.client() as client:
            assert client.completions.create(**SHORT).choices
        for key in ("wrong", "s3cre", "s3cret2"):
            with served.client(key) as client, pytest.raises(openai.AuthenticationError):
                client.completions.create(**SHORT)
        for path in ("/v1/models", "/v1/mcq", "/v1/none"):
            response = httpx.get(f"{served.url}{path}")
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert "s3cret" not in response.text
        basic = {"Authorization": "s3cret"}
        assert httpx.get(f"{served.url}/v1/models", headers=basic).status_code == 401
        assert httpx.get(f"{served.url}/health").status_code == 200


def test_foreign_host_names_are_refused_where_no_key_protects(start, served):
    for host, status in (("evil.example", 403), ("localhost:8000", 200), ("", 403)):
        response = httpx.get(f"{served.url}/v1/models", headers={"Host": host})
        assert response.status_code == status
    with start(api_key="s3cret") as behind_key:
        headers = {"Host": "models.example", "Authorization": "Bearer s3cret"}
        assert httpx.get(f"{behind_key.url}/v1/models", headers=headers).status_code == 200


def test_large_bodies_are_refused_however_they_come(start):
    body = json.dumps({**SHORT, "prompt": "x" * 3000}).encode()
    kind = {"Content-Type": "application/json"}
    with start(max_body_bytes=2000) as served:
        path = f"{served.url}/v1/completions"
        whole = httpx.post(path, content=body, headers=kind)
        chunked = httpx.post(path, content=iter([body[:1500], body[1500:]]), headers=kind)
        for response in (whole, chunked):
            assert response.status_code == 413, response.text
            assert response.json()["error"]["code"] == "request_too_large"
        assert httpx.post(path, json=SHORT, timeout=60).status_code == 200


def test_late_answers_stop_and_leave_the_model_free(start):
    settings = {"timeout_seconds": 0.4, "max_running": 1, "max_waiting": 0}
    with start(**settings) as served, served.client() as client:
        began = time.monotonic()
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(**LONG)
        assert caught.value.status_code == 408
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert time.monotonic() - began < 3
        with pytest.raises(openai.APIError, match="no answer within"):
            list(client.completions.create(**LONG, stream=True))
        assert eventually_free(client)


def test_queue_is_limited(start):
    with start(max_running=1, max_waiting=1) as served, served.client() as client:
        with client.completions.create(**LONG, stream=True) as stream:
            next(iter(stream))
            waiting = threading.Thread(target=client.completions.create, kwargs=SHORT)
            waiting.start()
            time.sleep(0.3)
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(**SHORT)
            assert caught.value.code == "queue_full"
            assert caught.value.response.headers["retry-after"] == "1"
        waiting.join(20)
        assert not waiting.is_alive(), "it got its turn when the stream was closed"


def test_long_answers_hold_up_no_short_ones(start):
    with (
        start(max_running=2) as served,
        served.client() as client,
        client.completions.create(**LONG, stream=True) as stream,
    ):
        events = iter(stream)
        next(events)
        answer = client.completions.create(**SHORT)
        assert answer.usage.completion_tokens == 3
        assert next(events).choices[0].finish_reason is None, "the long one goes on"


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_goes_away_stops_its_generation(start, stream):
    with start(max_running=1, max_waiting=0) as served, served.client() as client:
        path, body = f"{served.url}/v1/completions", {**LONG, "stream": stream}
        with (
            contextlib.suppress(httpx.ReadTimeout),
            httpx.stream("POST", path, json=body, timeout=0.5) as response,
        ):
            assert stream, "an answer in one piece is not there yet"
            next(response.iter_lines())
        assert eventually_free(client)


def test_stopping_ends_running_answers_at_once(start):
    with start(max_running=1) as served, served.client() as client:
        stream = client.completions.create(**LONG, stream=True)
        events = iter(stream)
        next(events)
        began = time.monotonic()
        served.server.stop()
        with pytest.raises(openai.APIError, match="stopping"):
            list(events)
        assert time.monotonic() - began < 2


def test_only_this_machine_without_a_key():
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        check_exposure(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "models.example"):
        with pytest.raises(ConfigError, match="POSTTRAIN_API_KEY"):
            check_exposure(host, None)
        check_exposure(host, "s3cret")


def test_taken_port_is_one_clear_error():
    with bind_socket("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(ConfigError, match=r"Address already in use.*port=0"):
            bind_socket("127.0.0.1", first.getsockname()[1])


def test_reserved_port_refuses_until_the_server_listens():
    with bind_socket("127.0.0.1", 0) as bound, pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{bound.getsockname()[1]}")
