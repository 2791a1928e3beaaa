"""The server of the live page: what it serves, and which requests it refuses."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import optlab, train, write_tiny

from trainer.report.server import LiveServer
from trainer.report.watched_runs import WatchedRuns


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("served")
    train(write_tiny(folder), run_dir=folder / "runs" / "one")
    with LiveServer(WatchedRuns([str(folder)]), lambda: "<p>the report</p>", "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield made
        made.shutdown()


def ask(
    server: LiveServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=given)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_it_serves_its_own_files_only(server: LiveServer) -> None:
    base = f"/{server.token}/"
    for name, part in (
        ("", "<title>optlab watch"),
        ("live.js", '"use strict"'),
        ("page.css", "body"),
        ("report", "the report"),
    ):
        code, text, headers = ask(server, base + name)
        assert code == 200, name
        assert part in text
        assert headers["Cache-Control"] == "no-store"
    _, _, headers = ask(server, base)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    answer = json.loads(ask(server, base + "runs?since=0")[1])
    assert [run["status"] for run in answer["runs"]] == ["completed"]
    curves = json.loads(ask(server, f"{base}curves?ids={answer['ids'][0]}&since=0")[1])
    assert curves["curves"][0]["epochs"]["val_loss"]
    for name in ("page.html", "../watched_runs.py", "%2e%2e/page.py", "curves/", "etc/passwd", "page.css/"):
        assert ask(server, base + name)[0] == 404, name
    for query in (
        "runs?since=x",
        "runs?since=-1",
        "runs?since=" + 40 * "9",
        "curves?ids=a,b&since=",
        "curves",
    ):
        assert ask(server, base + query)[0] == 200, query


def test_a_request_needs_the_token(server: LiveServer) -> None:
    for path in ("/", "/runs", "/x/", f"/{server.token[:-1]}/", f"/{server.token.swapcase()}/", "//"):
        code, text, _ = ask(server, path)
        assert code == 404, path
        assert text == "not found"
    assert len(server.token) >= 32


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:80"},
        {"Host": ""},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_another_host_or_origin_is_refused(server: LiveServer, headers: dict[str, str]) -> None:
    assert ask(server, f"/{server.token}/runs", **headers)[0] == 403


def test_the_own_origin_and_localhost_are_accepted(server: LiveServer) -> None:
    for host in ("127.0.0.1", "localhost"):
        name = f"{host}:{server.server_port}"
        assert ask(server, f"/{server.token}/runs", Host=name, Origin=f"http://{name}")[0] == 200


def test_other_methods_are_refused(server: LiveServer) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, f"/{server.token}/runs", method)[0] == 501


def test_it_listens_on_this_machine_only(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_port_in_use_is_a_config_error(server: LiveServer, tmp_path: Path) -> None:
    done = optlab("watch", tmp_path, "--port", str(server.server_port))
    assert done.code == 2
    assert "--port" in done.err


def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer", "watch", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
