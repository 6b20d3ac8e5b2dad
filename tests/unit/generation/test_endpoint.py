"""The `openai` back end, against a server that fails as endpoints do."""

import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from posttrain.config.evaluation import NumberTask
from posttrain.config.generation import OpenAIBackEnd
from posttrain.config.model import ModelConfig
from posttrain.errors import ConfigError, PosttrainError
from posttrain.evaluation.tasks import load_task_model, run_task
from posttrain.generation.endpoint import EndpointGenerator
from posttrain.generation.generator import GenerationOptions, GenerationRequest, write_all
from posttrain.grading.tool_calls import parse_tool_calls

KEY = "sk-very-secret"
OPTIONS = GenerationOptions(20)


def ask(text, **more):
    return GenerationRequest((1,), messages=({"role": "user", "content": text},), **more)


def answer(text, *, finish="stop", **message):
    said = {"role": "assistant", "content": text, **message}
    return {
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
        "usage": {"completion_tokens": len((text or "").split())},
    }


class FaultyServer(ThreadingHTTPServer):
    """Answers the last word of the conversation, after what is to go wrong with it before."""

    daemon_threads = True

    def __init__(self, faults=None, models=("first", "second")):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults = {word: list(steps) for word, steps in (faults or {}).items()}
        self.models, self.seen, self.times = models, [], []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.address = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Whoever has given up waiting is no error."""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def reply(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(200, {"data": [{"id": name} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.seen.append((self.path, dict(self.headers), body))
            server.times.append(time.monotonic())
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        word = (body["messages"][-1]["content"] if "messages" in body else body["prompt"]).split()[
            -1
        ]
        steps = server.faults.get(word, [])
        fault = steps.pop(0) if steps else {}
        time.sleep(fault.get("seconds", 0.02))
        with server.lock:
            server.at_once -= 1
        if "drip" in fault:
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(fault["drip"]):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.05)
            except OSError:
                return
        elif "cut" in fault:
            self.close_connection = True
        else:
            body = fault.get("body", answer(f"said {word}"))
            self.reply(fault.get("status", 200), body, **fault.get("headers", {}))


@pytest.fixture
def serve():
    started = []

    def start(faults=None, **options):
        server = FaultyServer(faults, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def connect(address, decode=None, **settings):
    values = {"backend": "openai", "address": address, "retry_seconds": 0.01, **settings}
    return EndpointGenerator(OpenAIBackEnd.model_validate(values), decode)


def test_seeds_reach_the_endpoint_only_where_there_is_chance(serve):
    server = serve()
    generator = connect(server.address)
    write_all(generator, [ask("a", seed=7)], OPTIONS)
    sampled = GenerationOptions(20, temperature=0.5, top_p=0.9, top_k=4, stop=("x",))
    write_all(generator, [ask("b", seed=8)], sampled)
    (greedy, chance) = (body for _, _, body in server.seen)
    assert greedy == {
        "model": "first",
        "max_tokens": 20,
        "temperature": 0.0,
        "messages": [{"role": "user", "content": "a"}],
    }
    assert chance["seed"] == 8
    assert (chance["top_p"], chance["top_k"], chance["stop"]) == (0.9, 4, ["x"])


def test_requests_go_side_by_side_up_to_the_limit(serve):
    server = serve()
    found = write_all(
        connect(server.address, concurrency=3), [ask(f"w{n}") for n in range(12)], OPTIONS
    )
    assert [c.text for c in found] == [f"said w{n}" for n in range(12)]
    assert server.most_at_once == 3


BUSY = {"status": 429, "body": {"error": "slow down"}}


@pytest.mark.parametrize(
    "fault",
    [BUSY, {"status": 503}, {"cut": True}, {"body": b"<html>"}, {"body": {}}, {"body": []}],
    ids=["429", "503", "cut", "html", "no choices", "list"],
)
def test_what_passes_is_asked_for_again(serve, fault):
    server = serve({"a": [fault, fault]})
    (found,) = write_all(connect(server.address), [ask("a")], OPTIONS)
    assert (found.text, found.failure) == ("said a", None)
    assert len(server.seen) == 3


def test_a_failure_costs_its_own_item_alone(serve):
    server = serve({"bad": [{"status": 400, "body": {"error": "too long"}}], "busy": [BUSY] * 9})
    requests = [ask(word) for word in ("good", "bad", "busy", "fine")]
    found = write_all(connect(server.address, tries=3), requests, OPTIONS)
    assert [c.failure is None for c in found] == [True, False, False, True]
    assert found[1].failure == 'status 400: {"error": "too long"}'
    assert found[2].failure.startswith("status 429")
    words = [body["messages"][0]["content"] for _, _, body in server.seen]
    assert (words.count("bad"), words.count("busy")) == (1, 3)


@pytest.mark.parametrize("fault", [{"seconds": 5}, {"drip": 100}], ids=["silent", "drips"])
def test_an_answer_that_does_not_come_in_time_is_a_failure(serve, fault):
    server = serve({"slow": [fault]})
    started = time.monotonic()
    slow, fine = write_all(
        connect(server.address, timeout_seconds=0.5, tries=1), [ask("slow"), ask("fine")], OPTIONS
    )
    assert slow.failure == "no answer within 0.5 s"
    assert fine.text == "said fine"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_pause_that_is_asked_for_is_kept(serve, form):
    wait = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server = serve({"a": [{**BUSY, "headers": {"Retry-After": wait}}]})
    write_all(connect(server.address), [ask("a")], OPTIONS)
    assert server.times[1] - server.times[0] >= 0.9


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(serve, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    server = serve({"a": [{"status": 400, "body": {"you sent": KEY}}]})
    (found,) = write_all(connect(server.address, key_variable="MY_KEY"), [ask("a")], OPTIONS)
    assert server.seen[0][1]["Authorization"] == f"Bearer {KEY}"
    assert found.failure == 'status 400: {"you sent": "[key]"}'


def test_a_key_from_a_file_is_used_without_its_line_break(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    server = serve()
    write_all(connect(server.address), [ask("a")], OPTIONS)
    assert server.seen[0][1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [f"{KEY}\nmore", "sk-sécret", f"{KEY} 2"])
def test_what_can_be_no_key_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY has characters") as caught:
        connect("http://127.0.0.1:9/v1")
    assert "sk-" not in f"{caught.value} {caught.value.hint}"


def test_a_dummy_key_changes_no_answer(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "1234")
    server = serve({"a": [{"body": answer("It is 1234.")}], "b": [{"status": 400, "body": "1234"}]})
    found = write_all(connect(server.address), [ask("a"), ask("b")], OPTIONS)
    assert found[0].text == "It is 1234."
    assert found[1].failure == 'status 400: "[key]"'


@pytest.mark.parametrize(
    "address", ["http://", "http://a:99999/v1", "http://[::1/v1", "http://a b"]
)
def test_an_address_that_is_none_is_refused_by_the_settings(address):
    with pytest.raises(ValueError, match="address"):
        connect(address)


@pytest.mark.parametrize(("status", "says"), [(401, "key is refused"), (404, "unknown address")])
def test_what_no_item_will_get_past_ends_everything(serve, status, says):
    server = serve({"a": [{"status": status}]})
    with pytest.raises(ConfigError, match=says):
        write_all(connect(server.address), [ask("a"), *[ask("b")] * 50], OPTIONS)
    assert len(server.seen) < 50


def test_an_endpoint_that_is_not_there_is_told_at_once(serve):
    with pytest.raises(PosttrainError, match="no answer: no connection"):
        connect("http://127.0.0.1:9/v1", tries=2)
    with pytest.raises(PosttrainError, match="lists no model"):
        connect(serve(models=()).address)


def test_calls_go_out_and_come_back_as_a_model_writes_them(serve):
    call = {"type": "function", "function": {"name": "look", "arguments": {"q": "é"}}}
    said = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"n": 2}'}}
    server = serve({"now": [{"body": answer(None, finish="tool_calls", tool_calls=[said])}]})
    messages = (
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "blue"},
        {"role": "tool", "content": "red"},
        {"role": "user", "content": "And now"},
    )
    tool = {"type": "function", "function": {"name": "find", "parameters": {}}}
    request = GenerationRequest((1,), messages=messages, tools=(tool,))
    (found,) = write_all(connect(server.address), [request], OPTIONS)
    (parsed,) = parse_tool_calls(found.text, (tool,)).calls
    assert (parsed.name, parsed.arguments, found.finished) == ("find", {"n": 2}, True)
    sent = server.seen[0][2]
    assert sent["tools"] == [tool]
    calls = sent["messages"][1]["tool_calls"]
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [{"q": "é"}] * 2
    assert [m["tool_call_id"] for m in sent["messages"][2:4]] == [c["id"] for c in calls]
    assert len({c["id"] for c in calls}) == 2


def test_writing_that_is_cut_short_sends_no_more(serve):
    server = serve()
    steps = connect(server.address, concurrency=2).generate([ask("a")] * 40, OPTIONS)
    next(steps)
    steps.close()
    time.sleep(0.3)
    assert len(server.seen) < 10


def test_a_task_keeps_what_was_answered_and_tells_what_was_not(serve, tmp_path, tiny_tokenizer):
    server = serve({"cats?": [BUSY] * 9, "dogs?": [{"body": answer("So \\boxed{7}.")}]})
    rows = [{"question": f"How many {what}?", "answer": "#### 7"} for what in ("dogs", "cats")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = NumberTask(kind="number", data={"path": tmp_path / "rows.jsonl"})
    settings = OpenAIBackEnd(
        backend="openai", address=server.address, tries=2, retry_seconds=0.01, concurrency=1
    )
    held = load_task_model(
        ModelConfig(path="tiny"),
        task.needs,
        dtype="float32",
        device="cpu",
        generator=settings,
        tokenizer=tiny_tokenizer,
    )
    results = run_task(task, held, tiny_tokenizer, tmp_path / "out", model_name="tiny")
    assert (results["correct"], results["scored"], results["unscored"]) == (1, 1, 1)
    assert results["generator"]["model"] == "first"
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["correct"], r["error"]) for r in records] == [(True, None), (None, "unanswered")]
    assert "429" in records[1]["failure"]


def test_answers_of_one_model_are_not_gone_on_with_by_the_next(serve, tmp_path, tiny_tokenizer):
    server = serve()
    (tmp_path / "rows.jsonl").write_text('{"question": "How many?", "answer": "#### 7"}\n')
    task = NumberTask(kind="number", data={"path": tmp_path / "rows.jsonl"})
    for served in ("first", "first", "second"):
        server.models = (served,)
        held = connect(server.address)
        run_task(task, held, tiny_tokenizer, tmp_path / "out", model_name="m", model_identity="m")
    assert [body["model"] for _, _, body in server.seen] == ["first", "second"]
