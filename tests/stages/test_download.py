"""`posttrain download` against a hub of our own that speaks what the real client asks for."""

import hashlib
import json
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from posttrain.models.tiny import ensure_tiny
from tests.stages.conftest import command, environment
from tests.stages.test_mistakes import complain

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """The part of the hub's API that a download uses; counts and breaks off what it is told to."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.sent: list[tuple[str, int]] = []
        """Path and first byte of every transfer."""
        self.break_after: dict[str, int] = {}
        """Path -> bytes after which the connection ends, once."""
        self.refuse: set[str] = set()
        """Paths that are answered with an error of the server."""
        self.spoil: set[str] = set()
        """Paths whose bytes are not those that are announced."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request, *, body: bool) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        for name, files in self.repos.items():
            api = f"/api/{name}" if name.startswith("datasets/") else f"/api/models/{name}"
            if path.startswith(f"{api}/tree/"):
                return self.reply_json(request, [describe(k, v) for k, v in files.items()])
            if path == api or path.startswith(f"{api}/revision/"):
                known = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
                if known not in ("main", COMMIT):
                    return self.reply_json(request, {}, 404, "RevisionNotFound")
                return self.reply_json(request, {"id": name, "sha": COMMIT, "siblings": []})
            if path.startswith(f"/{name}/resolve/"):
                file = path.removeprefix(f"/{name}/resolve/").partition("/")[2]
                if body and file in self.refuse:
                    return self.reply_json(request, {}, 500)
                return self.reply_file(request, file, files[file], body=body)
        return self.reply_json(request, {}, 404, "RepoNotFound")

    def reply_json(self, request, value, status: int = 200, code: str = "") -> None:
        data = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        if code:
            request.send_header("X-Error-Code", code)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def reply_file(self, request, file: str, data: bytes, *, body: bool) -> None:
        start = int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("ETag", f'"{describe(file, data)["oid"]}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        request.end_headers()
        if not body:
            return
        self.sent.append((file, start))
        rest = data[start:]
        if file in self.spoil:
            rest = bytes(len(rest))
        if (most := self.break_after.pop(file, None)) is not None:
            request.wfile.write(rest[:most])
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        request.wfile.write(rest)


def describe(path: str, data: bytes) -> dict[str, object]:
    """An entry of the tree: large files have a sha256, small ones git's digest."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        entry |= {"oid": digest, "lfs": {"oid": digest, "size": len(data), "pointerSize": 134}}
    return entry


@pytest.fixture
def hub(cache_dir) -> Iterator[FakeHub]:
    fake = FakeHub()
    files = {path.name: path.read_bytes() for path in ensure_tiny("tiny").iterdir()}
    useless = {"pytorch_model.bin": b"pickle", "tf_model.h5": b"copy"}
    fake.repos["someone/small"] = files | useless
    fake.repos["someone/old"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    fake.repos["datasets/someone/rows"] = {"data/train.jsonl": b'{"text": "a"}\n', "README.md": b""}
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def fetch(hub, tmp_path, cache_dir):
    """Run the command against the fake hub."""

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        env = environment(cache_dir) | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
        env |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"} | changes
        return subprocess.run(
            command("download", *arguments),
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_model_arrives_whole_and_is_usable(fetch, hub, tmp_path, cli):
    result = fetch("someone/small", "out=models/small")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "models/small")
    folder = tmp_path / "models/small"
    found = {path.name for path in folder.iterdir()}
    wanted = set(hub.repos["someone/small"]) - {"pytorch_model.bin", "tf_model.h5"}
    assert found == wanted | {"SOURCE.json"}
    assert not list(folder.parent.glob(".small*"))
    source = json.loads((folder / "SOURCE.json").read_text())
    assert source["commit"] == COMMIT
    for entry in source["contents"]:
        data = hub.repos["someone/small"][entry["path"]]
        assert (folder / entry["path"]).read_bytes() == data
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    used = cli("prepare", "rows.jsonl", f"model.path={folder}")
    assert used.returncode == 0, used.stderr
    again = fetch("someone/small", "out=models/small", HF_HUB_OFFLINE="1")
    assert again.returncode == 0
    assert "already there" in again.stderr
    (folder / "config.json").write_text("{}")
    complain(fetch("someone/small", "out=models/small"), 7, "config.json", "delete")
    complain(fetch("someone/old", "out=models/small"), 2, "holds name someone/small", "out=")


def test_a_broken_connection_is_taken_up_again(fetch, hub, tmp_path):
    data = hub.repos["someone/small"]["model.safetensors"]
    hub.break_after["model.safetensors"] = len(data) // 2
    result = fetch("someone/small", "out=small")
    assert result.returncode == 0, result.stderr
    assert [file for file, _ in hub.sent].count("model.safetensors") == 2
    assert (tmp_path / "small/model.safetensors").read_bytes() == data


def test_a_broken_download_keeps_what_has_arrived_and_shows_nothing_half(fetch, hub, tmp_path):
    hub.refuse.add("model.safetensors")
    complain(fetch("someone/small", "out=small"), 4, "broken off", "run the same command again")
    assert not (tmp_path / "small").exists()
    arrived = {file for file, _ in hub.sent}
    assert arrived
    hub.refuse.clear()
    hub.sent.clear()
    assert fetch("someone/small", "out=small").returncode == 0
    again = {file for file, _ in hub.sent}
    assert "model.safetensors" in again
    assert not again & arrived


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_bytes_that_are_not_the_announced_ones_are_refused(fetch, hub, tmp_path, file):
    hub.spoil.add(file)
    result = fetch("someone/small", "out=small")
    complain(result, result.returncode, "someone/small")
    assert result.returncode in (4, 7)
    assert not (tmp_path / "small").exists()
    hub.spoil.clear()
    assert fetch("someone/small", "out=small").returncode == 0


def test_a_data_set_keeps_its_folders(fetch, tmp_path):
    result = fetch("someone/rows", "out=rows", "kind=dataset")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "rows/data/train.jsonl").read_text() == '{"text": "a"}\n'
    only = fetch("someone/rows", "out=only", "kind=dataset", "files=['data/*']")
    assert only.returncode == 0, only.stderr
    assert sorted(path.name for path in (tmp_path / "only").iterdir()) == ["SOURCE.json", "data"]


def test_pickles_only_when_asked_for(fetch, tmp_path):
    complain(fetch("someone/old", "out=old"), 4, "only as pickles (pytorch_model.bin)")
    assert not (tmp_path / "old").exists()
    assert fetch("someone/old", "out=old", "pickles=true").returncode == 0
    assert (tmp_path / "old/pytorch_model.bin").read_bytes() == b"pickle"


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        (("someone/none", "out=x"), 4, ("no such model", "kind=model|dataset")),
        (("someone/small", "out=x", "revision=v9"), 4, ("no revision `v9`",)),
        (("someone/small", "out=x", "files=['*.gguf']"), 4, ("no file fits", "there are: ")),
        (("someone/small",), 2, ("`out` is missing",)),
        (("../small", "out=x"), 2, ("name",)),
        (("someone/small", "out=x", "hub=modelscop"), 2, ("hub", "modelscope")),
    ],
)
def test_mistakes_are_one_line(fetch, tmp_path, arguments, status, parts):
    complain(fetch(*arguments), status, *parts)
    assert not Path(tmp_path / "x").exists()


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "HF_ENDPOINT"])
def test_offline_says_within_seconds_what_to_do_elsewhere(fetch, tmp_path, how):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    started = time.perf_counter()
    result = fetch("someone/small", "out=small", **{how: "1" if "OFF" in how else nobody})
    assert time.perf_counter() - started < 15
    complain(
        result,
        4,
        "someone/small",
        "posttrain download someone/small out=small",
        f"rsync -a small/ USER@THIS_MACHINE:{tmp_path}/small/",
    )


def test_modelscope_without_its_package_names_the_extra(cli, tmp_path):
    try:
        import modelscope  # noqa: F401
    except ImportError:
        result = cli("download", "someone/small", "out=small", "hub=modelscope")
        complain(result, 5, "pip install 'posttrain[modelscope]'")
    else:
        pytest.skip("modelscope is installed")
