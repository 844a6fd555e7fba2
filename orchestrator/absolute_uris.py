"""A spec that means the same in every folder and on every machine: its relative paths made absolute. Called before a
spec is planned, submitted, or compared with that of a run.
"""

from __future__ import annotations

from pathlib import Path

from jobspecs.data import Loader
from jobspecs.job import JobSpec
from orchestrator.named_uris import with_uris
from workers.storage import absolute


def absolute_uris(spec: JobSpec) -> JobSpec:
    """`spec` with every path below the current folder written as a `file://` URI. Raises UsageError."""
    spec = with_uris(spec, lambda _, uri: absolute(uri))
    data = spec.data.model_copy(update={"loader": _absolute_cache(spec.data.loader)})
    return spec.model_copy(update={"data": data})


def _absolute_cache(loader: Loader) -> Loader:
    if loader.cache is None:
        return loader
    folder = str(Path(loader.cache.folder).expanduser().absolute())
    return loader.model_copy(update={"cache": loader.cache.model_copy(update={"folder": folder})})
