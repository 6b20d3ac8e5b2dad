"""Evaluation by an endpoint that is dead, refuses, or fails now and then."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from posttrain.files import load_jsonl, write_jsonl
from posttrain.samples import GENERATORS
from tests.stages.test_mistakes import complain

RECIPE = """\
name: far
model: {path: tiny}
compute: {threads: 1, precision: fp32, device: cpu}
stages:
  - stage: evaluate
    generator: {backend: openai, address: ADDRESS, model: good, tries: 1, retry_seconds: 0.01}
    tasks: [{task: gsm8k, data: {path: math.jsonl}}]
"""


class Endpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failing = lambda text: False
        self.asked = 0
        self.address = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        status, reply = 200, {"choices": [{"message": {"content": "#### 7"}}]}
        if body["model"] != "good":
            status, reply = 404, {"error": "no such model"}
        elif text != "1" and self.server.failing(text):
            status, reply = 400, {"error": "too long for me"}
        self.server.asked += text != "1"
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def endpoint():
    server = Endpoint()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def recipe(tmp_path, endpoint):
    write_jsonl(tmp_path / "math.jsonl", GENERATORS["math"](6, 0))
    path = tmp_path / "far.yaml"
    path.write_text(RECIPE.replace("ADDRESS", endpoint.address))
    return path


def test_a_dead_endpoint_is_an_error_and_the_stage_is_not_begun(cli, recipe, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    recipe.write_text(RECIPE.replace("ADDRESS", address))
    complain(cli("evaluate", "far.yaml"), 1, address, "no connection", "the same command goes on")
    assert not (tmp_path / "runs/far/evaluate").exists()


def test_a_task_without_any_answer_ends_the_stage_and_the_next_start_asks_again(
    cli, recipe, tmp_path, endpoint
):
    endpoint.failing = lambda text: True
    shown = (endpoint.address, "answered none of 6 times", "too long for me", "far.yaml")
    complain(cli("evaluate", "far.yaml"), 1, *shown)
    stage = tmp_path / "runs/far/evaluate"
    assert not (stage / "stage.json").exists()
    assert len(load_jsonl(stage / "gsm8k/records.jsonl")) == 6
    out = ("--tasks", "gsm8k", "tasks.gsm8k.data.path=math.jsonl", "out=measured",
           "generator.backend=openai", f"generator.address={endpoint.address}",
           "generator.model=good", "generator.tries=1", "compute.threads=1")  # fmt: skip
    complain(cli("evaluate", "tiny", *out), 1, *shown[:3], "out=measured")
    endpoint.failing = lambda text: False
    again = cli("evaluate", "far.yaml")
    assert again.returncode == 0, again.stderr
    assert json.loads((stage / "stage.json").read_text())["unanswered"] == 0
    assert cli("evaluate", "tiny", *out).returncode == 0


def test_unanswered_ones_are_told_everywhere_and_asked_again(cli, recipe, tmp_path, endpoint):
    failed = load_jsonl(tmp_path / "math.jsonl")[0]["question"]
    endpoint.failing = lambda text: failed in text
    first = cli("evaluate", "far.yaml")
    assert first.returncode == 0, first.stderr
    told = '1 unscored (most often: status 400: {"error": "too long for me"})'
    folder = tmp_path / "runs/far/evaluate/gsm8k"
    assert told in first.stderr
    assert told in " ".join(first.stdout.split())
    assert told in (folder / "report.md").read_text()
    for page in (folder / "report.html", tmp_path / "runs/far/report.html"):
        assert told.partition(":")[0] in page.read_text()
    assert endpoint.asked == 6
    endpoint.failing = lambda text: False
    again = cli("evaluate", "far.yaml")
    assert "stage evaluate: 1 answers are asked for again" in again.stderr
    assert endpoint.asked == 7
    assert "unscored" not in (folder / "report.md").read_text().split("figure")[0]
    third = cli("evaluate", "far.yaml")
    assert "unchanged, not run again" in third.stderr
    assert endpoint.asked == 7


def test_a_mistake_in_the_generator_leaves_older_results_in_their_place(cli, recipe, tmp_path):
    assert cli("evaluate", "far.yaml").returncode == 0
    wrong = cli("evaluate", "far.yaml", "stages.evaluate.generator.model=bad")
    complain(wrong, 2, "unknown address or model", "no such model")
    assert "the older result is kept" not in wrong.stderr
    assert [p.name for p in (tmp_path / "runs/far").glob("evaluate*")] == ["evaluate"]


def test_other_settings_of_grading_ask_for_nothing_again(cli, recipe, tmp_path, endpoint):
    out = ("--tasks", "gsm8k", "tasks.gsm8k.data.path=math.jsonl", "out=measured",
           "generator.backend=openai", f"generator.address={endpoint.address}",
           "generator.model=good", "compute.threads=1")  # fmt: skip
    pattern = r"answer_pattern=never (\d)"
    assert cli("evaluate", "far.yaml").returncode == 0
    assert cli("evaluate", "tiny", *out).returncode == 0
    asked = endpoint.asked
    stage = cli("evaluate", "far.yaml", f"stages.evaluate.tasks.gsm8k.{pattern}")
    assert "stage evaluate: settings of grading have changed" in stage.stderr
    assert cli("regrade", "measured", pattern).returncode == 0
    command = cli("evaluate", "tiny", *out, f"tasks.gsm8k.{pattern}")
    back = cli("evaluate", "tiny", *out)
    assert "answer_pattern has changed: the answers are kept and graded anew" in stage.stderr
    assert "graded anew" not in command.stderr
    assert "answer_pattern has changed: the answers are kept and graded anew" in back.stderr
    assert endpoint.asked == asked
    assert not list(tmp_path.glob("**/*.old-*"))
    answers = {line["answer"] for line in load_jsonl(tmp_path / "measured/gsm8k/records.jsonl")}
    assert answers == {"7"}
    lines = load_jsonl(tmp_path / "runs/far/evaluate/gsm8k/records.jsonl")
    assert {line["answer"] for line in lines} == {None}
