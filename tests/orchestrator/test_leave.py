"""A pod that is asked to go: its driver saves first, its ranks are waited for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator import leave

DRIVER = """
import pathlib, signal, sys, time
def end(number, frame):
    pathlib.Path(sys.argv[2]).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


def test_the_driver_saves_and_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tandem").write_text(DRIVER)
    saved = tmp_path / "saved"
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "tandem"), "run", str(saved)], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        monkeypatch.setattr(psutil, "process_iter", lambda: [psutil.Process(driver.pid)])
        monkeypatch.setattr(leave, "_tell_ray", lambda seconds: pytest.fail("the driver ends the job by itself"))
        leave.leave(60)
        assert saved.read_text() == "saved"
        driver.wait()


def test_a_driver_that_has_just_ended_keeps_no_other_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Driver:
        def __init__(self, pid: int) -> None:
            self.pid = pid

        def terminate(self) -> None:
            asked.append(self.pid)
            if self.pid == 1:
                raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(psutil, "process_iter", lambda: [Driver(1), Driver(2)])
    monkeypatch.setattr(psutil, "wait_procs", lambda drivers, timeout: None)
    monkeypatch.setattr(leave, "_command", lambda process: ["tandem", "run", "a.yaml"])
    leave.leave(60)
    assert asked == [1, 2]


def test_a_node_without_driver_is_drained_until_its_ranks_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    told, looks = [], iter([["ray::RayTrainWorker"], ["ray::RayTrainWorker"], ["ray::IDLE"]])
    monkeypatch.setattr(leave, "_tell_ray", told.append)
    monkeypatch.setattr(leave, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(psutil, "process_iter", lambda: [None])
    monkeypatch.setattr(leave, "_command", lambda process: next(looks) if told else [])
    leave.leave(60)
    assert told == [60]
    assert next(looks, None) is None


def test_a_ray_that_is_gone_is_no_reason_to_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], *, timeout: float, check: bool) -> None:
        commands.append(command)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run)
    leave._tell_ray(12.7)
    assert commands[0][-1] == "12"
    assert "Ray could not be told that this node is going: TimeoutExpired" in capsys.readouterr().err


def test_which_processes_are_what() -> None:
    assert leave.is_driver(["/usr/bin/python", "/opt/venv/bin/tandem", "run", "/etc/tandem/spec.yaml"])
    assert leave.is_driver(["python", "-m", "orchestrator.cli", "run", "digits-clip.yaml"]), "what was submitted"
    assert not leave.is_driver(["sh", "-c", "python -m orchestrator.cli run digits-clip.yaml"])
    assert not leave.is_driver(["/opt/venv/bin/tandem", "status", "run"])
    assert not leave.is_driver([])
    assert leave.is_work(["ray::tandem:digits:a2:rank3"])
    assert not leave.is_work(["ray::IDLE"])
    assert not leave.is_work(["python"])
