"""Whether Python and the packages are those that Tandem needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

from orchestrator.doctor.finding import Finding, Level

SHOWN = ("torch", "ray", "deepspeed", "transformers")
"""Those whose versions are told in any case."""
OLDEST_PYTHON = (3, 11)


def software() -> Iterator[Finding]:
    """Of this process."""
    yield python(sys.version_info[:3])
    try:
        needed = metadata.requires("tandem") or []
    except metadata.PackageNotFoundError:  # it runs from its sources, or was shipped to a cluster
        needed = list(SHOWN)
    yield from packages(needed, version_of)


def version_of(package: str) -> str | None:
    """Of an installed package; it is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def python(version: tuple[int, ...]) -> Finding:
    """The interpreter."""
    told = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Finding("python", Level.FAIL, told, f"Make the environment with Python {oldest} or newer.")
    return Finding("python", Level.OK, told)


def packages(needed: Sequence[str], version: Callable[[str], str | None]) -> Iterator[Finding]:
    """Requirements as `torch>=2.8`, against what is installed. Told of are those of `SHOWN`, and what is wrong."""
    for requirement in needed:
        match = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\d.]+))?", requirement)
        if match is None or "extra ==" in requirement:
            continue
        name, least = match[1], match[2]
        there = version(name)
        remedy = f"pip install '{name}{f'>={least}' if least else ''}'"
        if there is None:
            yield Finding(name, Level.FAIL, "not installed", remedy)
        elif least and _numbers(there) < _numbers(least):
            yield Finding(name, Level.FAIL, f"{there}, and {least} or newer is needed", remedy)
        elif name in SHOWN:
            yield Finding(name, Level.OK, there)


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cu126` -> (2, 13, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))
