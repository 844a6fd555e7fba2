"""What a user calls a run -> its directory.

digits-clip                                       below the root; a folder here of that name is meant where it is a run,
                                                  or where the root has none
runs/digits-clip, s3://bucket/runs/digits-clip    a path or URI

A folder of the name of a run is mostly its data: `tandem init --from-shards pets` names the job `pets`.
"""

from __future__ import annotations

import os

from workers.run import RunDirectory
from workers.storage import absolute, join
from workers.storage.uris import path_of


def is_path(argument: str) -> bool:
    """Whether it is a path or URI by its looks, and no name."""
    return "/" in argument or argument in (".", "..")


def named_run(argument: str, root: str) -> RunDirectory:
    """The run directory that `argument` names, by path, URI or name below `root`. Object storage is not asked whether
    it has one. Raises UsageError: a URI of a scheme that there isn't."""
    here = RunDirectory(absolute(argument))
    if is_path(argument):
        return here
    below = RunDirectory(absolute(join(root, argument)))
    is_free = below.uri.startswith("file://") and not _is_there(below)
    return here if os.path.isdir(argument) and (_is_there(here) or is_free) else below


def _is_there(run: RunDirectory) -> bool:
    """Whether a folder of this machine holds a run; what others hold is not asked."""
    return path_of(run.spec).is_file()
