"""A spec that means the same in every folder and on every machine: its relative paths made absolute. Called before a
spec is planned, submitted, or compared with that of a run.
"""

from __future__ import annotations

import os
from pathlib import Path

from jobspecs.data import Loader
from jobspecs.identity import HERE
from jobspecs.job import JobSpec
from orchestrator.named_run import is_path, named_run
from orchestrator.named_uris import with_models, with_uris
from workers.storage import absolute


def absolute_uris(spec: JobSpec) -> JobSpec:
    """`spec` with every path below the current folder written as a `file://` URI, and every model's folder there as an
    absolute path: elsewhere its name might be one on the hub. Raises UsageError."""
    root = spec.storage.root
    spec = with_models(spec, lambda place, name: _absolute_model(place, name, root))
    spec = with_uris(spec, lambda _, uri: absolute(uri))
    data = spec.data.model_copy(update={"loader": _absolute_cache(spec.data.loader)})
    return spec.model_copy(update={"data": data})


def _absolute_cache(loader: Loader) -> Loader:
    if loader.cache is None:
        return loader
    folder = str(Path(loader.cache.folder).expanduser().absolute())
    return loader.model_copy(update={"cache": loader.cache.model_copy(update={"folder": folder})})


def is_local(place: str, name: str, root: str) -> bool:
    """Whether a model of `named_models` lies in a folder, here or where the job runs: no name on the hub or below
    `root`, where the runs are, and nothing of object storage."""
    if "://" in name:
        return name.startswith("file://")
    if place == "mining.model":
        return name.startswith("~") or is_path(name) or named_run(name, root).uri == absolute(name)
    return name.startswith((".", "/", "~")) or os.path.isdir(name)


def _absolute_model(place: str, name: str, root: str) -> str:
    """The experiment's hash keeps to `name`, and is equal in every folder."""
    if name.startswith(("/", "~", "file://")) or not is_local(place, name, root):
        return name
    return f"{os.getcwd()}{HERE}{name}"
