"""What is in the tree is in the wheel."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

OTHER = (".py", ".md", ".json")
"""What setuptools takes by itself, and what people and editors read."""


def test_every_package_and_all_that_it_needs_besides_python_is_listed() -> None:
    packages = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in sources("__init__.py")}
    assert packages == set(SETTINGS["packages"])
    for file in sources("*"):
        if file.suffix not in OTHER and file.parent.name != "__pycache__" and file.is_file():
            package = str(file.parent.relative_to(ROOT)).replace("/", ".")
            patterns = SETTINGS["package-data"].get(package, [])
            assert any(fnmatch(file.name, pattern) for pattern in patterns), file


def test_type_checkers_read_the_annotations_of_what_is_installed() -> None:
    for package in ("jobspecs", "workers", "orchestrator"):
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in SETTINGS["package-data"][package]


def sources(name: str) -> list[Path]:
    return [file for root in ("jobspecs", "workers", "orchestrator") for file in (ROOT / root).rglob(name)]
