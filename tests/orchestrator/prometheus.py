"""Debian's Prometheus: what one has seen, and one with the rules of `deploy/monitoring/` for the time of a test."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.orchestrator.monitoring import MONITORING
from tests.ports import free_ports

INSTALLED = shutil.which("prometheus") is not None
START_SECONDS = 60


class Seen:
    """What the Prometheus at a URL has seen."""

    def __init__(self, url: str) -> None:
        self.url = url

    def names(self, prefix: str) -> dict[str, list[dict[str, str]]]:
        """All that was seen of metrics whose names begin with it: the labels of their series, by name."""
        found: dict[str, list[dict[str, str]]] = {}
        for series in self._ask("series", {"match[]": f'{{__name__=~"{prefix}.*"}}'}):
            found.setdefault(series["__name__"], []).append(series)
        return found

    def values(self, query: str) -> list[float]:
        """The values that a query has now, one for each series."""
        return [float(series["value"][1]) for series in self._ask("query", {"query": query})["result"]]

    def rules(self) -> dict[str, str]:
        """The health of each rule, by name: `ok` where its expression could be evaluated."""
        groups = self._ask("rules", {})["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def _ask(self, what: str, parameters: dict[str, str]) -> Any:
        answer = requests.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=60)
        answer.raise_for_status()
        return answer.json()["data"]


class Prometheus(Seen):
    """Scrapes `targets` (host:port) each second. A context manager; nothing of it is left behind."""

    def __init__(self, targets: list[str]) -> None:
        super().__init__(f"http://127.0.0.1:{free_ports(1)}")
        self._targets = targets

    def __enter__(self) -> Prometheus:
        self._folder = tempfile.TemporaryDirectory(prefix="prometheus-")
        settings: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings["rule_files"] = [str(MONITORING / "alerts.yml")]
        settings["scrape_configs"] = [{"job_name": "ray", "static_configs": [{"targets": self._targets}]}]
        file = Path(self._folder.name, "prometheus.yml")
        file.write_text(yaml.safe_dump(settings))
        options = {
            "config.file": file,
            "storage.tsdb.path": f"{self._folder.name}/data",
            "web.listen-address": self.url.removeprefix("http://"),
            "log.level": "error",
        }
        command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
        self._process = subprocess.Popen(command, cwd=self._folder.name)
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None
            assert time.monotonic() < deadline, "Prometheus does not start"
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.RequestException:
            return False
