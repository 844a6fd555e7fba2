"""An S3 server that does as a test says."""

from __future__ import annotations

import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "testing-secret"

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


class Scripted:
    """An S3 server of one object at any key. `behave` may answer instead: it is given the method and the Range
    header. A body shorter than its Content-Length breaks the connection off."""

    def __init__(self) -> None:
        self.data, self.etag = os.urandom(3500), "v1"
        self.behave: Callable[[str, str], Answer | None] = lambda *_: None
        self.requests: list[tuple[str, str]] = []
        """(method, Range header) of each request."""
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                wanted = self.headers.get("Range", "")
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                scripted.requests.append((self.command, wanted))
                status, headers, body = scripted.behave(self.command, wanted) or (
                    scripted.serve(wanted, self.headers.get("If-Match"))
                    if self.command in ("GET", "HEAD")
                    else (200, {"ETag": f'"{scripted.etag}"'}, b"")
                )
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.close_connection = int(headers.get("Content-Length", len(body))) != len(body)

            do_GET = do_HEAD = do_PUT = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the client has hung up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, wanted: str, match: str | None) -> Answer:
        if match is not None and match != f'"{self.etag}"':
            return refusal(412, "PreconditionFailed")
        headers = {"ETag": f'"{self.etag}"'}
        if not wanted:
            return 200, headers, self.data
        first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        body = self.data[first : last + 1]
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(self.data)}"}, body

    @property
    def ranges(self) -> list[str]:
        """The ranges that were asked for, one after the other."""
        return [wanted for _, wanted in self.requests if wanted]


def refusal(status: int, code: str) -> Answer:
    """An error whose text carries a secret, as if it echoed the request."""
    return status, {}, f"<Error><Code>{code}</Code><Message>you sent {SECRET}</Message></Error>".encode()


def answers(status: int, code: str) -> Callable[[str, str], Answer]:
    """Refuses everything."""
    return lambda *_: refusal(status, code)
