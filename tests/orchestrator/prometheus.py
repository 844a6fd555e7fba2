"""Debian's Prometheus on this machine, with the rules of `deploy/monitoring/`, for the time of a test."""

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
from tests.orchestrator.token_cluster import free_ports

INSTALLED = shutil.which("prometheus") is not None
START_SECONDS = 60


class Prometheus:
    """Scrapes `targets` (host:port) each second. A context manager; nothing of it is left behind."""

    def __init__(self, targets: list[str]) -> None:
        (port,) = free_ports(1)
        self._address = f"127.0.0.1:{port}"
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
            "web.listen-address": self._address,
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

    def names(self, prefix: str) -> dict[str, list[dict[str, str]]]:
        """All that was seen of metrics whose names begin with it: the labels of their series, by name."""
        found: dict[str, list[dict[str, str]]] = {}
        for series in self._ask("series", {"match[]": f'{{__name__=~"{prefix}.*"}}'}):
            found.setdefault(series["__name__"], []).append(series)
        return found

    def rules(self) -> dict[str, str]:
        """The health of each rule, by name: `ok` where its expression could be evaluated."""
        groups = self._ask("rules", {})["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def _ask(self, what: str, parameters: dict[str, str]) -> Any:
        answer = requests.get(f"http://{self._address}/api/v1/{what}", params=parameters, timeout=10)
        answer.raise_for_status()
        return answer.json()["data"]

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"http://{self._address}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False
