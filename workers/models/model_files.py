"""The files of somebody's model: a folder, or a name on the hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelFiles:
    """What lies in a folder, or under a name on the hub. Files of the hub are fetched when they are asked for."""

    name: str
    """The folder, or the name."""
    revision: str | None = None
    """Of the hub."""

    def path(self, file: str) -> Path | None:
        """Where `file` lies on this machine, None where the model has none of that name. Raises OSError: the hub
        can't be reached, or has no such model."""
        if os.path.isdir(self.name):
            path = Path(self.name, file)
            return path if path.is_file() else None
        from transformers.utils import cached_file

        found = cached_file(self.name, file, revision=self.revision, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)

    def json(self, file: str) -> Any:
        """What the JSON in `file` says, None where there is no such file. Raises OSError, ValueError: no JSON."""
        path = self.path(file)
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
