"""A headless Chromium, spoken to by its DevTools protocol through two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_SECONDS = 120.0
"""Of an answer: a machine that is busy starts a browser slowly."""
PAGE_LEFT = ("Inspected target navigated or closed", "Execution context was destroyed.")
"""What an answer says that had no time to come, as the page goes to another one, or loads anew."""


class PageLeftError(Exception):
    """The page was left before it answered."""


class Browser:
    """A page in a browser. A context manager.

    with Browser(tmp_path) as browser:
        browser.open(file, width=1280, height=800, dark=True)
        browser.value("document.title")
        browser.complaints      what the console, the page's scripts and the network have to say
    """

    def __init__(self, folder: Path) -> None:
        """folder: for its profile."""
        found = [path for name in NAMES if (path := shutil.which(name))]
        assert found, f"there is none of {', '.join(NAMES)}: apt-get install chromium"
        command = [found[0], "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += [f"--user-data-dir={folder}", "--disable-dev-shm-usage", "--no-first-run", "about:blank"]
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        # It reads descriptor 3 and writes 4.
        redirect = f'exec "$@" 3<&{theirs} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command],
            pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self._buffer = b""
        self._calls = 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None

    def __enter__(self) -> Browser:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        os.close(self._to)  # it ends with its pipe
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)

    def open(self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Loads a file or an address, and forgets what was complained of before."""
        self._events.clear()
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media="", features=[scheme])
        loader = self._call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())["loaderId"]
        loaded = {"name": "load", "loaderId": loader}
        while not any(loaded.items() <= event["params"].items() for event in self._events):
            self._read()

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to, as JSON: on the next page, if this one is left meanwhile."""
        while True:
            try:
                answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
            except PageLeftError:
                continue
            assert "exceptionDetails" not in answer, answer
            return answer["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Moves the mouse there, in pixels of the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Presses a key, such as ArrowRight."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def write(self, text: str) -> None:
        """Enters text where the page has its focus."""
        self._call("Input.insertText", text=text)

    def print_media(self) -> None:
        """Shows the page as it is printed, until the next one is opened."""
        self._call("Emulation.setEmulatedMedia", media="print")

    def screenshot(self, file: Path) -> None:
        """Of the window."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings since the page was opened: of scripts, of its security policy, of the network."""
        kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed")
        return [json.dumps(event["params"]) for event in self._events if event["method"] in kinds]

    @property
    def requested(self) -> list[str]:
        """Addresses that were fetched since the page was opened, but for what is in the page."""
        sent = (event["params"] for event in self._events if event["method"] == "Network.requestWillBeSent")
        return [request["request"]["url"] for request in sent if not request["request"]["url"].startswith("data:")]

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._calls:
                if answer.get("error", {}).get("message") in PAGE_LEFT:
                    raise PageLeftError(answer)
                assert "error" not in answer, (method, answer)
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        """The next message; events are kept."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._from, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._events.append(message)
        return message
