"""The rules of deploy/Dockerfile, read out of it: there is no Docker here."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from orchestrator.kubernetes_pods import USER

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction, continued lines joined."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_the_base_has_a_version_that_the_project_supports() -> None:
    (base,) = [rest for rest in arguments("ARG") if rest.startswith("PYTHON_IMAGE=")]
    version = re.fullmatch(r"PYTHON_IMAGE=python:(\d+)\.(\d+)-slim-bookworm", base)
    assert version is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    least = project["requires-python"].removeprefix(">=").split(".")
    assert (int(version[1]), int(version[2])) >= (int(least[0]), int(least[1]))
    assert arguments("FROM") == ["${PYTHON_IMAGE}"]


def test_all_that_pip_installs_is_pinned() -> None:
    installs = [part for run in arguments("RUN") for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 3
    for install in installs:
        assert "--constraint /build/constraints.txt" in install or "--no-deps" in install, install
    pins = (ROOT / "constraints.txt").read_text()
    assert all(re.search(rf"^{package}==", pins, re.MULTILINE) for package in ("torch", "ray", "deepspeed"))


@pytest.mark.parametrize("extras", ["", "faiss mlflow"])
def test_extras_of_the_project_can_be_added(extras: str) -> None:
    assert "EXTRAS=" in arguments("ARG"), "none by default"
    (run,) = [run for run in arguments("RUN") if "tomllib" in run]
    program = run.partition('python -c "')[2].partition('"')[0].replace("/build/", f"{ROOT}/")
    done = subprocess.run(
        [sys.executable, "-c", program], env={"EXTRAS": extras}, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    added = [package for name in extras.split() for package in project["optional-dependencies"][name]]
    assert done.stdout.splitlines() == [*project["dependencies"], *added]


def test_both_variants_and_no_other() -> None:
    (choice,) = [run for run in arguments("RUN") if "VARIANT" in run]
    assert re.findall(r"(\w+|\*)\)", choice)[:3] == ["cuda", "cpu", "*"]
    assert "exit 1" in choice
    assert "VARIANT=cuda" in arguments("ARG")


def test_it_runs_as_the_user_of_the_pods() -> None:
    assert arguments("USER") == [f"{USER}:{USER}"]
    names = [name for name, _ in instructions()]
    assert "RUN" not in names[names.index("USER") :]
    assert any(f"--uid {USER} " in run for run in arguments("RUN"))


def test_what_is_copied_is_there_and_the_code_comes_last() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignore[0] == "*", "nothing by default"
    sources = [source for copy in arguments("COPY") for source in copy.split()[:-1]]
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignore
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == set(sources)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} <= set(sources)
    steps = [rest for name, rest in instructions() if name in ("COPY", "RUN")]
    dependencies = next(number for number, step in enumerate(steps) if "requirements.txt" in step)
    assert all(number > dependencies for number, step in enumerate(steps) if step.startswith("orchestrator"))


@pytest.mark.parametrize("secret", ["*token*", "*secret*", "*password*", "*_key*", "*://*:*@*"])
def test_it_holds_no_secret_and_fetches_nothing_by_url(secret: str) -> None:
    assert not arguments("ADD")
    for settings in (*arguments("ARG"), *arguments("ENV")):
        assert not fnmatch.fnmatch(settings.lower(), secret)


def test_lists_of_packages_are_not_kept() -> None:
    for run in arguments("RUN"):
        if "apt-get install" in run:
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists/*" in run
