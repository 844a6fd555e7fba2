"""A cluster on this machine, without Docker: three Ray nodes, an S3 server and, where it is installed, Prometheus.

    python deploy/local/cluster.py up        # then: source build/local/env
    python deploy/local/cluster.py kill node-2      # it is gone, with all that ran on it, as if its power was cut
    python deploy/local/cluster.py down

For trying out. Dashboard, S3 server and Prometheus listen on 127.0.0.1 only. Of Ray's ports between its own processes
some listen on all of the machine's addresses, and Ray can't be told otherwise: they ask for the token, which is made
anew each time. The S3 server (moto) keeps objects in its memory: they are gone with it. What is written is below
build/local, and Ray's sessions are in /tmp/tandem-<port>. TANDEM_LOCAL_PORT is the first of ten ports that are used.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

HOST = "127.0.0.1"
"""Where the dashboard, the S3 server and Prometheus listen."""
FOLDER = Path("build/local")
BUCKET = "tandem"
NODES = 3
RULES = Path(__file__).resolve().parents[1] / "monitoring" / "alerts.yml"
"""The alerts, of which Prometheus' page shows what fires."""
CPUS = 2
"""Of each node, whatever the machine has: more workers than cores are slower, and the same experiment."""
STARTED_SECONDS = 120
_END_SECONDS = 3
"""For a process that was asked to end. Nothing here is worth waiting for longer."""
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Ports:
    """Where what listens."""

    first: int

    @property
    def ray(self) -> int:
        """Ray's head, for drivers."""
        return self.first

    @property
    def dashboard(self) -> int:
        """Ray's dashboard, for jobs and browsers."""
        return self.first + 1

    @property
    def s3(self) -> int:
        """The S3 server."""
        return self.first + 2

    @property
    def prometheus(self) -> int:
        """Prometheus."""
        return self.first + 3

    def agent(self, node: int) -> int:
        """The agent of a node, from 0."""
        return self.first + 4 + node

    def all(self) -> range:
        """Those of all."""
        return range(self.first, self.first + 4 + NODES)


def address_of(node: int) -> str:
    """127.0.0.2 is the head's, from which on the other nodes follow."""
    return f"127.0.0.{2 + node}"


@dataclass(frozen=True)
class Process:
    """One that was started here; a number that came again is some other process's."""

    name: str
    pid: int
    created: float


def up(ports: Ports) -> None:
    """Starts all, one after the other. Ends the program where something does not start."""
    if _processes():
        sys.exit("the local cluster is up already: python deploy/local/cluster.py down")
    for port in ports.all():
        if _answers(port):
            sys.exit(f"port {port} is taken: set TANDEM_LOCAL_PORT to the first of ten that are free")
    FOLDER.mkdir(parents=True, exist_ok=True)
    environment = _environment(ports)
    os.environ.update(environment)
    try:
        _start("s3", [BIN / "moto_server", "--host", HOST, "--port", str(ports.s3)], ports.s3)
        _make_bucket(ports)
        _start(
            "head", _ray(ports, 0, "--head", f"--port={ports.ray}", f"--dashboard-port={ports.dashboard}"), ports.ray
        )
        _wait_for("head", ports.dashboard)
        nodes = range(1, NODES)
        started = [
            _launch(f"node-{node}", _ray(ports, node, f"--address={address_of(0)}:{ports.ray}")) for node in nodes
        ]
        for node, process in zip(nodes, started, strict=True):
            _wait_for(f"node-{node}", ports.agent(node), address_of(node), process)
        _start_prometheus(ports)
    except BaseException:
        down()
        raise
    _write_private(FOLDER / "env", "".join(f"export {name}='{value}'\n" for name, value in environment.items()))
    print(f"{NODES} Ray nodes with {CPUS} CPUs each, and an S3 server with the bucket {BUCKET}: source {FOLDER}/env")


def down() -> None:
    """Ends what was started, and what that has started."""
    left: list[psutil.Process] = []
    for process in _processes():
        left += _tree(process)
    _end(left)
    for name in ("processes.json", "env", "token"):
        (FOLDER / name).unlink(missing_ok=True)


def kill(name: str) -> None:
    """Ends a Ray node and all that runs on it, without a word of warning. Ends the program where there is none."""
    nodes = {process.name: _tree(process) for process in _processes() if process.name.startswith("node-")}
    if not nodes.get(name):
        left = ", ".join(node for node, tree in nodes.items() if tree)
        sys.exit(f"there is no {name} to kill: {f'choose one of {left}' if left else 'all are gone'}")
    for process in nodes[name]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _environment(ports: Ports) -> dict[str, str]:
    """What the nodes run with, and users' commands. Keys are made anew each time, and kept in files of the user's
    own alone; the token is in none of the variables."""
    token = FOLDER / "token"
    _write_private(token, secrets.token_hex(32))
    return {
        "RAY_ADDRESS": f"{address_of(0)}:{ports.ray}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token.absolute()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        "AWS_DEFAULT_REGION": "us-east-1",
        "S3_ENDPOINT": f"http://{HOST}:{ports.s3}",
        "DASHBOARD": f"http://{HOST}:{ports.dashboard}",
        "PROMETHEUS": f"http://{HOST}:{ports.prometheus}",
    }


def _ray(ports: Ports, node: int, *arguments: str) -> list[str | Path]:
    """The command of a node. Each has a loopback address of its own: of 127.0.0.1 Ray makes the machine's address in
    the network, and would listen there. And each has a folder of its own: a node that unpacks a job's working directory
    deletes the one that is there, under a driver that another node has started in it."""
    return [
        *(BIN / "ray", "start", "--block", *arguments),
        *(f"--node-ip-address={address_of(node)}", f"--dashboard-host={HOST}", f"--num-cpus={CPUS}", "--num-gpus=0"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={ports.agent(node)}"),
        f"--temp-dir={_session(ports) / f'n{node}'}",
    ]


def _session(ports: Ports) -> Path:
    """For Ray's folders; its path is short, since sockets lie in them."""
    return Path(f"/tmp/tandem-{ports.first}")


def _make_bucket(ports: Ports) -> None:
    import boto3

    boto3.client("s3", endpoint_url=f"http://{HOST}:{ports.s3}").create_bucket(Bucket=BUCKET)


def _start_prometheus(ports: Ports) -> None:
    program = shutil.which("prometheus")
    if program is None:
        print("Prometheus is not installed (Debian: apt-get install prometheus): metrics are not collected")
        return
    discovery = _session(ports) / "n0" / "prom_metrics_service_discovery.json"  # Ray keeps its nodes there
    config = FOLDER / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 5s, evaluation_interval: 5s}\n"
        f"rule_files: ['{RULES}']\n"
        "scrape_configs:\n"
        f"  - {{job_name: ray, file_sd_configs: [{{files: ['{discovery}']}}]}}\n"
    )
    listen = f"--web.listen-address={HOST}:{ports.prometheus}"
    data = f"--storage.tsdb.path={FOLDER}/prometheus"
    _start("prometheus", [program, f"--config.file={config}", listen, data], ports.prometheus)


def _start(name: str, command: list[str | Path], port: int, host: str = HOST) -> None:
    """Starts a process, and waits until it listens."""
    _wait_for(name, port, host, _launch(name, command))


def _launch(name: str, command: list[str | Path]) -> subprocess.Popen[bytes]:
    """Starts a process that outlives this one."""
    with (FOLDER / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    there = [*_processes(), Process(name, started.pid, psutil.Process(started.pid).create_time())]
    (FOLDER / "processes.json").write_text(json.dumps([asdict(process) for process in there]))
    return started


def _wait_for(name: str, port: int, host: str = HOST, started: subprocess.Popen[bytes] | None = None) -> None:
    until = time.monotonic() + STARTED_SECONDS
    while not _answers(port, host):
        if time.monotonic() > until or (started is not None and started.poll() is not None):
            sys.exit(f"{name} did not start: {FOLDER}/{name}.log says why")
        time.sleep(0.1)


def _answers(port: int, host: str = HOST) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _processes() -> list[Process]:
    """Those that were started and not yet ended."""
    record = FOLDER / "processes.json"
    return [Process(**process) for process in json.loads(record.read_text())] if record.exists() else []


def _tree(process: Process) -> list[psutil.Process]:
    """It and what it has started; empty where it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid)
        if started.create_time() == process.created and started.status() != psutil.STATUS_ZOMBIE:
            return [started, *started.children(recursive=True)]
    return []


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=_END_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _write_private(path: Path, text: str) -> None:
    """A file that nobody else on the machine can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["up"]:
            up(Ports(int(os.environ.get("TANDEM_LOCAL_PORT", "27400"))))
        case ["kill", name]:
            kill(name)
        case ["down"]:
            down()
        case _:
            sys.exit(__doc__)
