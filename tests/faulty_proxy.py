"""A proxy between an S3 client and a server that makes reading fail, the same way for the same seed.

    faults = {"drop": 0.1, "slow_down": 0.1, "short": 0.1, "stall": 0.1}
    with FaultyProxy(s3_server, seed=0, faults=faults) as proxy:
        storage = Storage(S3(endpoint=proxy.url, timeout_seconds=1))
        …
        proxy.change("/bucket/key")     from now on this object has another ETag
        proxy.outage = "full"           from now on, until it is None again
        proxy.plan_outage("slow", 6.0, lambda method, path: method == "PUT")     from the first such request on, for 6 s
    assert proxy.injected["drop"] > 0

Everything passes through, but a GET of an object (or what `methods` names) may meet one of FAULTS, with the
probability given for it.
Which one depends on the seed, the object's key, the range and how often that was asked for before, and not on
what other threads do. A range that met `faults_per_range` of them is let through ever after.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("drop", "slow_down", "short", "stall")
"""The connection is reset within the body; 503 SlowDown; the body ends before its Content-Length says so; nothing
(more) comes, before the answer or within its body, until the client gives up."""

OUTAGES = ("unavailable", "refused", "slow", "full")
"""All requests are answered 503; connections are closed unanswered; each request waits for a second; nothing can be
written (507)."""

_OF_THE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "expect", "content-length")
_PART_BYTES = 256 << 10


class FaultyProxy:
    """Listens on a port of the loopback device while its context lasts."""

    def __init__(
        self,
        target: str,
        *,
        seed: int = 0,
        faults: dict[str, float] | None = None,
        faults_per_range: int = 3,
        methods: tuple[str, ...] = ("GET",),
    ) -> None:
        self.target = urlsplit(target).netloc
        self.injected: Counter[str] = Counter()
        """How often each fault was injected, and "changed": answers about objects that were changed."""
        self.requests: list[tuple[str, str, str]] = []
        """Method, path without query, and Range header of each request."""
        self.outage: str | None = None
        """One of OUTAGES that all requests meet, or None."""
        self.hit: list[tuple[str, str]] = []
        """Method and path of the requests that met an outage since the last one was planned."""
        self._begins: Callable[[str, str], bool] | None = None
        self._planned = ("", 0.0)
        self._until = float("inf")
        self._seed, self._faults, self._faults_per_range = seed, faults or {}, faults_per_range
        assert set(self._faults) <= set(FAULTS), f"of these faults some are unknown: {sorted(self._faults)}"
        assert sum(self._faults.values()) <= 1, "the probabilities add up to more than 1"
        self._methods = methods
        self._asked: Counter[tuple[str, str]] = Counter()
        self._met: Counter[tuple[str, str]] = Counter()
        self._changed: set[str] = set()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.ending = self._server.ending
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyProxy:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()  # waits for the threads of the connections

    def change(self, path: str) -> None:
        """From now on the object at `/bucket/key` has another ETag, and conditions on the old one fail."""
        with self._lock:
            self._changed.add(path)

    def plan_outage(self, kind: str, seconds: float, begins: Callable[[str, str], bool]) -> None:
        """All requests shall meet `kind` for so long, from the first one on of which `begins(method, path)` is true."""
        assert kind in OUTAGES, kind
        with self._lock:
            self._planned, self._begins, self.hit = (kind, seconds), begins, []

    def end_outage(self) -> None:
        """None is there any more, and none is planned."""
        with self._lock:
            self.outage, self._begins, self._until = None, None, float("inf")

    @property
    def outage_is_over(self) -> bool:
        """Whether the outage that was planned has come and gone."""
        with self._lock:
            return self._begins is None and time.monotonic() >= self._until

    def meet_outage(self, method: str, path: str) -> str | None:
        """The outage that a request meets, which is noted, or None."""
        with self._lock:
            if self._begins is not None and self._begins(method, path):
                self._begins = None
                self.outage, self._until = self._planned[0], time.monotonic() + self._planned[1]
            if time.monotonic() >= self._until:
                self.outage = None
            outage = self.outage
            if outage == "full" and method not in ("PUT", "POST"):
                outage = None
            if outage is not None:
                self.hit.append((method, path))
            return outage

    def meet(self, method: str, path: str, wanted: str) -> tuple[str | None, random.Random]:
        """Notes a request; returns the fault that it meets, "changed" or None, and draws for the details."""
        place = (path, wanted)
        with self._lock:
            self.requests.append((method, path, wanted))
            self._asked[place] += 1
            key = path.strip("/").partition("/")[2]  # tests draw the names of their buckets at random
            draws = random.Random(f"{self._seed} {key} {wanted} {self._asked[place]}")
            kind = (
                self._draw(draws)
                if method in self._methods and key and self._met[place] < self._faults_per_range
                else None
            )
            if kind is not None:
                self._met[place] += 1
            elif path in self._changed and method in ("GET", "HEAD"):
                kind = "changed"
            if kind is not None:
                self.injected[kind] += 1
            return kind, draws

    def _draw(self, draws: random.Random) -> str | None:
        probabilities = [*self._faults.values(), 1 - sum(self._faults.values())]
        return draws.choices([*self._faults, None], probabilities)[0]


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ending = threading.Event()
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        # Without the inherited shutdown(), so that a connection can end in a reset.
        self.connections.discard(request)
        request.close()

    def end_connections(self) -> None:
        self.ending.set()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is what the faults are for


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def forward(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        fault, draws = self.proxy.meet(self.command, path, self.headers.get("Range", ""))
        outage = self.proxy.meet_outage(self.command, path)
        if outage == "refused":
            self.close_connection = True
            return None
        if outage == "unavailable":
            return self.refuse(503, "ServiceUnavailable")
        if outage == "full":
            return self.refuse(507, "XMinioStorageFull")
        if outage == "slow":
            self.proxy.ending.wait(1.0)
        if fault == "slow_down":
            return self.refuse(503, "SlowDown")
        if fault == "changed" and "If-Match" in self.headers:
            return self.refuse(412, "PreconditionFailed")
        if fault == "stall" and draws.random() < 0.5:
            return self.stall()
        upstream = http.client.HTTPConnection(self.proxy.target, timeout=60)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _OF_THE_CONNECTION[:-1]:
                    upstream.putheader(name, value)
            upstream.endheaders(sent)
            return self.answer(upstream.getresponse(), fault, draws)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def answer(self, answer: http.client.HTTPResponse, fault: str | None, draws: random.Random) -> None:
        length = int(answer.headers.get("Content-Length", 0))
        chunked = answer.read() if "Content-Length" not in answer.headers else None
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in _OF_THE_CONNECTION:
                self.send_header(name, '"changed"' if name.lower() == "etag" and fault == "changed" else value)
        self.send_header("Content-Length", str(length if chunked is None else len(chunked)))
        self.end_headers()
        if chunked is not None:
            self.wfile.write(chunked)
            return
        cut = fault in ("drop", "short", "stall")
        left = int(draws.random() * length) if cut else length
        while self.command != "HEAD" and left and (part := answer.read(min(left, _PART_BYTES))):
            self.wfile.write(part)
            left -= len(part)
        if fault == "stall":
            self.stall()
        if fault == "drop":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = cut

    def refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>refused by the proxy</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stall(self) -> None:
        self.close_connection = True
        while not self.proxy.ending.is_set() and not select.select([self.connection], [], [], 0.02)[0]:
            pass
