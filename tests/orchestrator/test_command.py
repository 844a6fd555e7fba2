"""What a fault of Tandem itself shows of secrets."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = {
    "in a command": "found()",
    "in a thread": "thread = threading.Thread(target=found, name='beat'); thread.start(); thread.join()",
}


@pytest.mark.parametrize("where", FAULTS)
def test_a_traceback_of_any_error_is_shown_without_secrets(where: str) -> None:
    program = f"""
import sys, threading
from orchestrator import cli

def found():
    try:
        raise OSError("token s3cr3t-value")
    except OSError as error:
        raise ValueError("no answer from https://ann:hunter22@host/x") from error

@cli.app.command()
def breaks():
    {FAULTS[where]}

sys.argv = ["tandem", "breaks"]
cli.main()
"""
    environment = {"MY_SECRET": "s3cr3t-value", "PATH": ""}
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert answer.returncode == (1 if where == "in a command" else 0), answer.stderr
    assert answer.stdout == ""
    assert "Traceback (most recent call last)" in answer.stderr
    assert "OSError: token ***" in answer.stderr
    assert answer.stderr.endswith("ValueError: no answer from https://***@host/x\n")
    assert ("Exception in thread beat:" in answer.stderr) == (where == "in a thread")
    assert "hunter22" not in answer.stderr
    assert "s3cr3t" not in answer.stderr
