"""The commands of deploy/README.md for a cluster on one machine, as they are written there."""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local_cluster import ROOT, local_environment
from tests.orchestrator.prometheus import INSTALLED

README = (ROOT / "deploy" / "README.md").read_text()


def commands() -> str:
    section = README.partition("## On one machine")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return str(block)


@pytest.mark.ray
def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    for name in ("deploy", "jobspecs"):
        (tmp_path / name).symlink_to(ROOT / name)
    with local_environment() as environment:
        try:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands()],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        finally:
            down = [sys.executable, "deploy/local/cluster.py", "down"]
            subprocess.run(down, cwd=tmp_path, env=environment, check=True)
    assert "digits-clip was submitted as job digits-clip-" in done.stdout
    assert done.stdout.count("attempt 1: 2 workers from step 0") >= 2, "followed, and by `tandem logs`"
    assert "digits-clip: succeeded" in done.stdout, "the status, from the S3 server"
    assert "20 of 20" in done.stdout
    assert not (tmp_path / "build" / "local" / "token").exists()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of deploy/local/cluster.py, with its files in a folder of the test."""
    spec = importlib.util.spec_from_file_location("cluster", ROOT / "deploy" / "local" / "cluster.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cluster", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


@pytest.mark.skipif(not INSTALLED, reason="Prometheus is not installed")
def test_its_prometheus_has_the_rules(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(cluster, "_start", lambda name, *_: started.append(name))
    cluster._start_prometheus(cluster.Ports(27400))
    assert started == ["prometheus"]
    checked = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{ROOT}/deploy/monitoring/alerts.yml" in checked.stdout
    assert "1 rule files found" in checked.stdout


def test_a_node_is_killed_with_what_runs_on_it(cluster: Any) -> None:
    head, one, other = (cluster._launch(name, ["sleep", "600"]) for name in ("head", "node-1", "node-2"))
    try:
        cluster.kill("node-1")
        assert one.wait() == -signal.SIGKILL
        assert (head.poll(), other.poll()) == (None, None)
        with pytest.raises(SystemExit, match=r"there is no node-1 to kill: choose one of node-2$"):
            cluster.kill("node-1")
    finally:
        cluster.down()
        head.wait()
        other.wait()
    with pytest.raises(SystemExit, match="there is no head to kill: all are gone"):
        cluster.kill("head")


def test_the_files_that_the_readme_names_are_there() -> None:
    named = re.findall(r"`((?:local|ray-cluster|kubernetes|monitoring)/[\w/.-]+|Dockerfile)`", README)
    assert {"local/cluster.py", "ray-cluster/aws.yaml", "Dockerfile"} <= set(named)
    for name in named:
        assert (ROOT / "deploy" / name).exists(), name
