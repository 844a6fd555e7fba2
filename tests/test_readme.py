"""What the README shows is what is there."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_the_files_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"`((?:jobspecs|workers|orchestrator|deploy)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
