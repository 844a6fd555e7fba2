"""A dashboard that answers as a Ray cluster's does, as far as Tandem asks: jobs are entries of a dictionary."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeDashboard:
    """A server on this machine, while the context is open."""

    def __init__(self, *, ray: str = "2.60.0", token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        """By submission id."""
        self.logs: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.authorizations: list[str | None] = []
        self.packages: list[str] = []
        self.status = 200
        """Of every answer, where it is another."""
        self.only_posts_fail = False
        dashboard = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                dashboard.asked.append(("GET", self.path))
                self._answer(self._get)

            def do_POST(self) -> None:
                dashboard.asked.append(("POST", self.path))
                self._answer(self._post)

            def do_PUT(self) -> None:
                self._body()
                dashboard.packages.append(self.path)
                self._answer(dict)

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(self, make: Any) -> None:
                given = self.headers.get("Authorization")
                dashboard.authorizations.append(given)
                if token and given is None:
                    self._send(401, "Unauthorized: Missing authentication token")
                elif token and given != f"Bearer {token}":
                    self._send(403, "Forbidden: Invalid authentication token")
                elif dashboard.status != 200 and (self.command == "POST" or not dashboard.only_posts_fail):
                    self._send(dashboard.status, "Traceback:\nValueError: broken\n")
                else:
                    content = make()
                    self._send(404 if content is None else 200, json.dumps(content))

            def _get(self) -> Any:
                if self.path == "/api/version":
                    return {"version": "4", "ray_version": ray, "ray_commit": "", "session_name": ""}
                if self.path == "/api/jobs/":
                    return [*dashboard.jobs.values(), {"type": "DRIVER", "submission_id": None, "status": "RUNNING"}]
                if self.path.endswith("/logs"):
                    return {"logs": dashboard.logs.get(self.path.split("/")[3], "")}
                if self.path.startswith("/api/packages/"):
                    return None
                return dashboard.jobs.get(self.path.split("/")[3])

            def _post(self) -> Any:
                body = self._body()
                if self.path == "/api/jobs/":
                    wanted = json.loads(body)
                    name, metadata = wanted.pop("submission_id"), wanted.pop("metadata")
                    dashboard.add(name, "PENDING", metadata, **wanted)
                    return {"submission_id": name, "job_id": name}
                dashboard.jobs[self.path.split("/")[3]]["status"] = "STOPPED"
                return {"stopped": True}

            def _send(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_port}"

    def add(self, submission_id: str, status: str, metadata: dict[str, str], **more: Any) -> None:
        """A job of that id."""
        self.jobs[submission_id] = {
            "type": "SUBMISSION",
            "start_time": 1000 * (len(self.jobs) + 1),
            "message": "",
            "driver_exit_code": None,
            **more,
            "submission_id": submission_id,
            "status": status,
            "metadata": metadata,
        }

    def __enter__(self) -> FakeDashboard:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
