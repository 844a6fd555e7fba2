"""What the checks say of machines, storages and clusters that are made up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from jobspecs.errors import UsageError
from jobspecs.storage import S3
from orchestrator.doctor import gpus, machine, software
from orchestrator.doctor.cluster import cluster
from orchestrator.doctor.finding import GIB, Finding
from orchestrator.doctor.gpus import Gpu, TorchCuda
from orchestrator.doctor.machine import Machine
from orchestrator.doctor.storage import speed, storage
from workers.storage import Storage, absolute

LARGE = Machine(
    cores=16, memory=64 * GIB, memory_free=60 * GIB, shm=32 * GIB, disk=100 * GIB, disk_free=50 * GIB, open_files=65536
)
CARD = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, 0.0, "535.1")


def levels(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.check: finding.level.value for finding in findings}


def test_versions_are_held_to_the_requirements() -> None:
    there = {"torch": "2.13.0+cu126", "ray": "2.9.3", "rich": "14.0.0"}
    needed = ["torch>=2.8", "ray[default,train]>=2.60", "rich>=13", "boto3>=1.36", 'mypy; extra == "dev"']
    found = list(software.packages(needed, there.get))
    assert levels(found) == {"torch": "ok", "ray": "fail", "boto3": "fail"}
    assert found[1].found == "2.9.3, and 2.60 or newer is needed"
    assert found[2].remedy == "pip install 'boto3>=1.36'"
    assert levels([software.python((3, 10, 1)), replace(software.python((3, 12, 1)), check="new")]) == {
        "python": "fail",
        "new": "ok",
    }


@pytest.mark.parametrize(
    ("there", "torch", "wanted", "level", "told"),
    [
        ([], TorchCuda(None, 0), 0, "ok", "there is no GPU"),
        ([CARD], TorchCuda("12.6", 1), 1, "ok", "can use 1 GPU"),
        ([CARD], TorchCuda("12.6", 1), 2, "fail", "the job needs 2 GPUs here, and there are 1"),
        ([CARD], TorchCuda(None, 0), 0, "warn", "built for CPUs alone, and can use none of 1"),
        ([CARD], TorchCuda("13.0", 0), 0, "warn", "built for CUDA 13.0, and can use none of 1"),
        ([CARD], TorchCuda("13.0", 0), 1, "fail", "built for CUDA 13.0, and can use none of 1"),
        ([], TorchCuda("12.6", 2), 1, "ok", "can use 2 GPUs"),
    ],
)
def test_what_driver_torch_and_job_say_together(
    there: list[Gpu], torch: TorchCuda, wanted: int, level: str, told: str
) -> None:
    *_, verdict = gpus.judge(there, torch, wanted)
    assert verdict.level.value == level
    assert told in verdict.found
    assert bool(verdict.remedy) == (level != "ok")


def test_a_gpu_that_is_in_use_is_told_of() -> None:
    busy = gpus.parse("NVIDIA A10G, 23028, 20000, 550.54\nNo devices were found\n")
    assert levels(gpus.judge(busy, TorchCuda("12.6", 1), 0)) == {"GPU 0": "warn", "CUDA": "ok"}


@pytest.mark.parametrize(
    ("change", "check", "level", "remedy"),
    [
        ({}, "cpu", "ok", ""),
        ({"cores": 1}, "cpu", "warn", "cluster.workers"),
        ({"memory_free": GIB}, "memory", "warn", "6.0 GiB are needed"),
        ({"shm": 64 * 2.0**20}, "/dev/shm", "fail", "--shm-size=19g"),
        ({"shm": 2 * GIB}, "/dev/shm", "warn", "--shm-size=19g"),
        ({"disk_free": GIB}, "disk", "fail", "RAY_TMPDIR"),
        ({"open_files": 1024}, "open files", "warn", "ulimit -n 16384"),
    ],
)
def test_what_a_machine_has_too_little_of(change: dict[str, float], check: str, level: str, remedy: str) -> None:
    found = list(machine.judge(replace(LARGE, **change), workers=2, cores_each=1))
    assert levels(found) == {**dict.fromkeys(("cpu", "memory", "/dev/shm", "disk", "open files"), "ok"), check: level}
    assert remedy in next(finding.remedy for finding in found if finding.check == check)


def test_a_container_has_the_memory_that_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_MEMORY", limit)
    assert machine._limit_of_container(8.0) == 8.0
    limit.write_text("max\n")
    assert machine._limit_of_container(8.0) == 8.0
    limit.write_text("4\n")
    assert machine._limit_of_container(8.0) == 4.0


def test_this_machine_can_be_measured() -> None:
    assert {"cpu", "memory", "disk", "open files"} <= set(levels(machine.machine(0, 1)))


def test_a_folder_is_probed_and_left_as_it_was(tmp_path: Path) -> None:
    found = list(storage(Storage(), absolute(str(tmp_path)), clock=iter([0.0, 1.0, 1.1]).__next__))
    assert levels(found) == {"storage": "ok", "storage conditions": "ok", "storage speed": "warn"}
    assert found[2].found == "writes 8 MiB/s, reads 80 MiB/s, in one thread"
    assert list(tmp_path.iterdir()) == []
    assert speed(8 << 20, 0.01, 0.01).level.value == "ok"


def test_a_root_that_can_not_be_written() -> None:
    (found,) = storage(Storage(), "file:///proc/nowhere")
    assert found.level.value == "fail"
    assert "/proc/nowhere" in found.found
    assert "storage.root" in found.remedy


def test_a_server_that_ignores_conditions_is_found(rclone_server: str) -> None:
    boto3.client("s3", endpoint_url=rclone_server).create_bucket(Bucket="probed")
    found = list(storage(Storage(S3(endpoint=rclone_server)), "s3://probed/runs"))
    assert levels(found)["storage conditions"] == "fail"
    assert "ignores the condition" in found[1].found


def test_the_cluster_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(address: str) -> tuple[str, str]:
        raise UsageError(f"there is no Ray cluster at {address}. Start it.")

    def there(address: str) -> tuple[str, str]:
        return "http://head:8265", "2.60.0"

    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    assert levels(cluster(None)) == {"ray cluster": "ok"}
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    (found,) = cluster(None, away)
    assert (found.level.value, found.found) == ("fail", "there is no Ray cluster at head:6379. Start it.")
    assert levels(cluster(None, there, "2.60.0")) == {"ray cluster": "ok"}
    assert levels(cluster(None, there, "2.61.0")) == {"ray cluster": "warn"}
