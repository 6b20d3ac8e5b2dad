"""`posttrain serve` as a user starts and ends it."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import openai
import pytest

from tests.stages.conftest import command, environment
from tests.stages.test_mistakes import complain

KEY = "s3cret-0123456789"


@contextmanager
def serving(cache, folder, *arguments, **variables):
    """Start the server, and wait until it says that it is ready."""
    process = subprocess.Popen(
        command("serve", *arguments, "port=0", "threads=1"),
        cwd=folder,
        env=environment(cache) | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        found = re.search(r"serving (\S+) on (http://127\.0\.0\.1:\d+)/v1", line)
        assert found, line
        yield process, found[1], found[2]
    finally:
        process.kill()
        process.communicate()


def finish(process, number) -> tuple[str, str, float]:
    began = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return out, err, time.monotonic() - began


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_at_once_though_an_answer_is_being_written(
    cache_dir, tmp_path, number
):
    with (
        serving(cache_dir, tmp_path, "tiny") as (process, name, url),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        client.completions.create(
            model=name, prompt="Tom", max_tokens=4000, temperature=0, stream=True
        ) as stream,
    ):
        next(iter(stream))
        _, err, seconds = finish(process, number)
    assert process.returncode == 0
    assert err.splitlines()[-1] == "stopped"
    assert "Traceback" not in err
    assert seconds < 5


def test_key_is_asked_for_and_never_written(cache_dir, tmp_path):
    settings = ("tiny", "host=127.0.0.1", "log_requests=true", "name=mine")
    with serving(cache_dir, tmp_path, *settings, POSTTRAIN_API_KEY=KEY) as (process, name, url):
        assert name == "mine"
        for key in (KEY, "wrong"):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                if key == KEY:
                    assert [m.id for m in client.models.list()] == ["mine"]
                else:
                    with pytest.raises(openai.AuthenticationError):
                        client.models.list()
        out, err, _ = finish(process, signal.SIGTERM)
    assert "GET /v1/models" in out + err, "requests are logged where it is asked for"
    assert KEY not in out + err
    assert "wrong" not in out + err


def test_run_folder_is_served_under_the_name_that_was_typed(cache_dir, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain.models.tiny import ensure_tiny

    final = tmp_path / "runs" / "mine" / "sft" / "final"
    AutoModelForCausalLM.from_pretrained(ensure_tiny("tiny")).save_pretrained(final)
    AutoTokenizer.from_pretrained(ensure_tiny("tiny")).save_pretrained(final)
    with serving(cache_dir, tmp_path, "runs/mine/sft") as (_, name, url):
        assert name == "runs/mine/sft"
        body = {"model": name, "prompt": "Tom", "max_tokens": 2, "temperature": 0}
        request = urllib.request.Request(
            f"{url}/v1/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response)["usage"]["completion_tokens"] == 2


def test_open_to_others_without_a_key(cli, monkeypatch):
    monkeypatch.delenv("POSTTRAIN_API_KEY", raising=False)
    complain(cli("serve", "tiny", "host=0.0.0.0"), 2, "POSTTRAIN_API_KEY")


def test_port_in_use(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        complain(cli("serve", "tiny", f"port={port}"), 2, str(port), "already in use", "port=0")


def test_model_that_does_not_exist(cli):
    complain(cli("serve", "./models/none"), 4, "no such folder")


def test_setting_with_a_typo(cli):
    complain(cli("serve", "tiny", "prot=1"), 2, "did you mean `port`?")


def test_extra_that_is_not_installed(tmp_path, cache_dir):
    code = "import sys; sys.modules['fastapi'] = None; from posttrain.cli.app import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "serve", "tiny"],
        cwd=tmp_path,
        env=environment(cache_dir),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complain(result, 5, "fastapi is not installed", "posttrain[serve]")
