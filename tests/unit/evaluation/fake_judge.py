"""A judge on this machine with InceptBench's shapes, whose failures a test can order."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-4f1d9c77e0"


class FakeJudge:
    """Answers ``/health`` and ``/evaluate``.

    ``failures`` maps an item's id to what its next answers are: a status, ``timeout``,
    ``malformed``, ``failed``, ``left_out``, ``echo`` (an error that repeats the key), or any score.
    """

    def __init__(self) -> None:
        self.version = "2.1.0"
        self.tells_version = True
        self.score = 0.9
        self.health: Any = 200
        self.failures: dict[str, list[Any]] = {}
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        self.retry_after = "0"
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                shown = {"status": "ok"}
                if judge.tells_version:
                    shown["inceptbench_version"] = judge.version
                if isinstance(judge.health, int):
                    self.reply(judge.health, shown)
                else:
                    self.send(200, judge.health)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != "/v1/evaluate":
                    self.reply(404, {})
                elif self.headers["Authorization"] != f"Bearer {KEY}":
                    self.reply(401, {"detail": "bad key"})
                else:
                    judge.answer(self, body)

            def reply(self, status: int, value: Any) -> None:
                self.send(status, json.dumps(value).encode())

            def send(self, status: int, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("Retry-After", judge.retry_after)
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, handler: Any, body: dict[str, Any]) -> None:
        (item,) = body["generated_content"]
        name = item["id"]
        with self.lock:
            self.asked[name] += 1
            self.bodies.append(body)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            queue = self.failures.get(name, [])
            order = queue.pop(0) if queue else self.score
        time.sleep(self.seconds)
        with self.lock:
            self.at_once -= 1
        if order == "timeout":
            self.stopped.wait(5)
        elif order == "malformed":
            handler.send(200, b'{"evaluations": {')
        elif order == "echo":
            handler.reply(500, {"detail": f"failed with {handler.headers['Authorization']}"})
        elif isinstance(order, int) and order > 1:
            handler.reply(order, {"detail": "ordered"})
        else:
            handler.reply(200, self.evaluate(name, order))

    def evaluate(self, name: str, order: Any) -> dict[str, Any]:
        whole: dict[str, Any] = {
            "request_id": "r1",
            "evaluations": {},
            "failed_items": None,
            "inceptbench_version": self.version,
        }
        if order == "failed":
            whole["failed_items"] = [{"item_id": name, "error": "model overloaded"}]
        elif order != "left_out":
            whole["evaluations"][name] = {
                "overall": {"score": order, "reasoning": "r", "suggested_improvements": "s"},
                "overall_rating": "ACCEPTABLE",
                "clarity": {"score": 0.5, "reasoning": "r", "suggested_improvements": "s"},
            }
        return whole
