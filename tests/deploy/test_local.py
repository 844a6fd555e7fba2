"""The commands of deploy/README.md for a cluster on one machine, as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "deploy" / "README.md").read_text()
PORTS = 7


def commands() -> str:
    section = README.partition("## On one machine")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return str(block)


def free_ports() -> int:
    """The first of some that are free in a row, below those that the system hands out."""
    for first in range(27000 + os.getpid() % 100 * 50, 32000, PORTS):
        try:
            for port in range(first, first + PORTS):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no ports are free")


@pytest.mark.ray
def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    for name in ("deploy", "jobspecs"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TANDEM_LOCAL_PORT": str(first := free_ports()),
    }
    session = Path(f"/tmp/tandem-{first}")
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
        shutil.rmtree(session, ignore_errors=True)
    assert "digits-clip: succeeded" in done.stdout, "the status, from the S3 server"
    assert "20 of 20" in done.stdout
    assert not (tmp_path / "build" / "local" / "token").exists()


def test_the_files_that_the_readme_names_are_there() -> None:
    named = re.findall(r"`((?:local|ray-cluster|kubernetes|monitoring)/[\w/.-]+|Dockerfile)`", README)
    assert {"local/cluster.py", "ray-cluster/aws.yaml", "Dockerfile"} <= set(named)
    for name in named:
        assert (ROOT / "deploy" / name).exists(), name


def test_the_spec_of_the_readme_is_one() -> None:
    """Its section `cluster`, in a spec that has the rest."""
    import yaml

    from jobspecs.load import loads
    from orchestrator.kubernetes import job_objects

    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    spec = yaml.safe_load((ROOT / "jobspecs" / "examples" / "digits_clip.yaml").read_text())
    spec |= yaml.safe_load(block) | {"storage": {"root": "s3://bucket/runs"}, "evaluations": []}
    spec["data"]["sources"][0]["urls"] = ["s3://bucket/*.tar"]
    assert len(job_objects(loads(yaml.safe_dump(spec)))) == 3
