"""What the README shows is what is there."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobspecs.load import loads
from jobspecs.starters import starter

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_spec_in_the_readme_is_the_example() -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert block.group(1) == starter("digits_clip")
    loads(block.group(1))


def test_the_commands_in_the_readme_are_those_of_the_program() -> None:
    from orchestrator.cli import app

    table = re.findall(r"^\| `tandem (\w+)", README, re.MULTILINE)
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert sorted(table) == sorted([*commands, *(group.name for group in app.registered_groups)])


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    for name in re.findall(r"`((?:jobspecs|workers|orchestrator|deploy|tests)/[\w/.]+)`", (ROOT / page).read_text()):
        assert (ROOT / name).exists(), name


def test_the_tracker_of_the_contributors_page_works(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(compile(block.group(1), "CONTRIBUTING.md", "exec"), names)
    tracker = names["Lines"](SimpleNamespace(spec=SimpleNamespace(name="digits")), "key")
    tracker.event({"event": "run_started"})
    tracker.steps([{"step": 3, "loss": 1.5}])
    tracker.close()
    assert capsys.readouterr().err == "digits 3 1.5\n"
