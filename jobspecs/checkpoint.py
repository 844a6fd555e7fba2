"""`checkpoint:` how often the job commits, and what it keeps."""

from __future__ import annotations

from jobspecs.base import PositiveInt, Section


class Checkpoint(Section):
    """Checkpoints. The last step is always one."""

    every_steps: PositiveInt = 500
    """Steps between two commits: at most this much work is lost."""
    keep_last: PositiveInt = 3
    """Newest commits that are kept; older ones are deleted after a new commit."""
