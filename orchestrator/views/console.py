"""A console that may go away."""

from __future__ import annotations

import os
import sys
from typing import IO

from rich.console import Console


class SteadyConsole(Console):
    """A console whose reader may end, as that of `tandem run job.yaml | head` does: from then on it says nothing.

    Rich itself would end the process, or the thread that printed.
    """

    def on_broken_pipe(self) -> None:
        """Nobody reads any more."""
        self.quiet = True
        let_go(self.file)


def let_go(file: IO[str]) -> None:
    """What `file` still holds goes nowhere, if it is the output of this process: flushed at its end, it would fail."""
    if file is sys.stdout:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
