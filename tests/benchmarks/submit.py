"""From the command to the first optimizer step on a cluster that is up: `make bench-submit`.

    tandem   `tandem submit SPEC`, the digits example on two workers
    bare     `ray job submit -- python submit_bare.py`, the same towers and tars in a plain script for Ray Train's
             TorchTrainer: submit_bare.py says what it has

Both run on the cluster of deploy/local/cluster.py, three nodes on one machine, with data and results in a folder of it.
`command` are the seconds until the command has returned, which is when the cluster has the job; `first step` those that
come then. The contestants take turns in coming first; of each, one job before all others is not counted. Medians of the
repetitions; the ratio is the bare script's seconds over Tandem's. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray.job_submission import JobSubmissionClient
from rich.console import Console
from rich.table import Table

from orchestrator.cluster import TERMINAL
from orchestrator.environment import variables
from tests.benchmarks.machine import machine
from tests.local_cluster import local_cluster
from tests.orchestrator.command import TANDEM, ledger_of, set_flags
from tests.orchestrator.conftest import EXAMPLE, overrides
from workers.data.demo import write_demo

AIMS = {"submit": round(1 / 1.2, 3)}
SCRIPT = Path(__file__).with_name("submit_bare.py")
PATIENCE_SECONDS = 600.0
POLL_SECONDS = 0.5
JOB = ("cluster={workers: 2}", "evaluations=[]", "training.steps=100000")  # it never gets there


@dataclass(frozen=True)
class Start:
    """A job's way to its first step. Unix times."""

    asked: float
    returned: float
    """The command has."""
    stepped: float

    def __post_init__(self) -> None:
        assert self.asked < self.returned < self.stepped, f"moments out of order: {self}"

    @property
    def seconds(self) -> tuple[float, float, float]:
        """`command`, `first step`, and both."""
        return self.returned - self.asked, self.stepped - self.returned, self.stepped - self.asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-submit-") as folder:
        found = measure(Path(folder), args.repetitions)
    Console(width=88).print(table(found))
    print(json.dumps(summary(found)))


def measure(folder: Path, repetitions: int) -> dict[str, list[Start]]:
    """The starts of each repetition, by contestant. folder: for data and runs."""
    write_demo("digits", folder / "digits")
    (folder / "script").mkdir()
    shutil.copy(SCRIPT, folder / "script")
    found: dict[str, list[Start]] = {name: [] for name in CONTESTANTS}
    with local_cluster(folder) as cluster, variables({"RAY_AUTH_MODE": "token"}):
        # Ray has read the mode when it was imported: the commands below find the token by themselves.
        jobs = JobSubmissionClient(cluster.url, headers={"Authorization": f"Bearer {cluster.token}"})
        for number in range(repetitions + 1):
            for name in list(CONTESTANTS)[:: -1 if number % 2 else 1]:
                start = CONTESTANTS[name](folder, f"{name}-{number}", jobs)
                if number:
                    found[name].append(start)
    return found


def submit_tandem(folder: Path, name: str, jobs: JobSubmissionClient) -> Start:
    """`tandem submit`, until the run's metrics have a step."""
    flags = set_flags(overrides(folder / "digits", folder / "runs", *JOB, f"name={name}"))
    asked, returned, answer = run([str(TANDEM), "submit", str(EXAMPLE), *flags, "-o", "json"])
    ledger = ledger_of(folder / "runs", name)
    wait(lambda: ledger.last_metrics() is not None, f"a step of {name}")
    end(json.loads(answer)["submission_id"], jobs)
    first = next(iter(ledger.metrics()))
    assert first["step"] == 1
    return Start(asked, returned, first["time"])


def submit_bare(folder: Path, name: str, jobs: JobSubmissionClient) -> Start:
    """`ray job submit`, until the script has told its first step."""
    told = folder / f"{name}.told"
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--no-wait", f"--submission-id={name}"]
    script = ["python", SCRIPT.name, str(folder / "digits" / "train"), str(folder / "ray"), str(told)]
    asked, returned, _ = run([*command, f"--working-dir={folder / 'script'}", "--", *script])
    wait(lambda: told.exists() and bool(told.read_text()), f"a step of {name}")
    end(name, jobs)
    return Start(asked, returned, float(told.read_text()))


Contestant = Callable[[Path, str, JobSubmissionClient], Start]
CONTESTANTS: dict[str, Contestant] = {"tandem": submit_tandem, "bare": submit_bare}


def run(command: list[str]) -> tuple[float, float, str]:
    """When a command began, when it returned, and what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    asked = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    returned = time.time()
    assert done.returncode == 0, done.stdout + done.stderr
    return asked, returned, done.stdout


def end(submission_id: str, jobs: JobSubmissionClient) -> None:
    """Stops a job, and waits until the cluster has its room back."""
    jobs.stop_job(submission_id)
    wait(lambda: jobs.get_job_status(submission_id) in TERMINAL, f"the end of {submission_id}")
    time.sleep(10 * POLL_SECONDS)  # workers end after their driver


def wait(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(POLL_SECONDS)


def medians(starts: Iterable[Start]) -> tuple[float, float, float]:
    """Of each part, and of the whole."""
    command, first_step, both = zip(*(start.seconds for start in starts), strict=True)
    return statistics.median(command), statistics.median(first_step), statistics.median(both)


def table(found: Mapping[str, Sequence[Start]]) -> Table:
    """Seconds, a row for each contestant. ± is half of the range of the repetitions."""
    made = Table()
    for heading in ("contestant", "command", "first step", "in all, s", "±"):
        made.add_column(heading, justify="left" if heading == "contestant" else "right")
    for name, starts in found.items():
        whole = [start.seconds[2] for start in starts]
        spread = (max(whole) - min(whole)) / 2
        made.add_row(name, *(f"{seconds:.2f}" for seconds in medians(starts)), f"{spread:.2f}")
    return made


def summary(found: Mapping[str, Sequence[Start]]) -> dict[str, object]:
    """The JSON line."""
    ratio = medians(found["bare"])[2] / medians(found["tandem"])[2]
    return {"benchmark": "submit", "ratios": {"submit": round(ratio, 3)}, "aims": AIMS, "machine": machine()}


if __name__ == "__main__":
    main()
