"""The notice of a spot instance, from a metadata service that is played here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.client import BadStatusLine
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator import spot


class Metadata(BaseHTTPRequestHandler):
    taken_back = False

    def do_PUT(self) -> None:
        self._answer(200, b"token" if self.headers["X-aws-ec2-metadata-token-ttl-seconds"] else b"")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "token":
            self._answer(401, b"")
        elif self.path == "/latest/meta-data/spot/instance-action" and self.taken_back:
            self._answer(200, b'{"action": "terminate"}')
        else:
            self._answer(404, b"")

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_notice_is_seen(metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot, "_ANSWER_SECONDS", 60.0)
    assert not spot.noticed(metadata)
    monkeypatch.setattr(Metadata, "taken_back", True)
    assert spot.noticed(metadata)


def test_the_node_leaves_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, left = iter([False, False, True]), []
    monkeypatch.setattr(spot, "noticed", lambda: next(looks))
    monkeypatch.setattr(spot, "leave", left.append)
    monkeypatch.setattr(spot, "_LOOK_SECONDS", 0.0)
    spot.main()
    assert left == [100.0]


def test_no_answer_is_no_notice_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unreachable = partial(spot.noticed, "http://127.0.0.1:1")
    looks, left = iter([unreachable, unreachable, broken, lambda: True]), []
    monkeypatch.setattr(spot, "noticed", lambda: next(looks)())
    monkeypatch.setattr(spot, "leave", left.append)
    monkeypatch.setattr(spot, "_LOOK_SECONDS", 0.0)
    spot.main()
    assert left == [100.0]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("http://169.254.169.254 does not answer (URLError: ")
    assert "Turn the metadata service of the instance on" in line


def broken() -> bool:
    """An answer that is none of HTTP's."""
    raise BadStatusLine("")
