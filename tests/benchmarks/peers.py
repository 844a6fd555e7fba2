"""The peers' losses, models and scores, from where the Makefile installs them (`make peers`).

open_clip's losses stand in one file that needs torch alone, while the package around it imports torchvision and
timm: only that file is loaded, and of the towers only those that they import; likewise CLIP_benchmark's file of
retrieval. sentence-transformers is imported whole, which takes about 10 s, with a folder on `sys.path` that the process
keeps: call it in a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from torch import nn

FOLDER = Path(__file__).parents[2] / "build" / "benchmarks" / "peers_loss"
INSTALL = "the peers are not installed: `make peers` does it"


def installed() -> bool:
    """Whether all are there."""
    return all((FOLDER / package).is_dir() for package in ("open_clip", "sentence_transformers", "clip_benchmark"))


@cache
def open_clip_losses() -> Any:
    """The module open_clip.loss, with `ClipLoss` and `SigLipLoss`."""
    module = _loaded(FOLDER / "open_clip" / "loss.py")
    _allow_deprecated_gather()
    return module


@cache
def clip_benchmark_retrieval() -> Any:
    """The module clip_benchmark.metrics.zeroshot_retrieval, with `recall_at_k`."""
    return _loaded(FOLDER / "clip_benchmark" / "metrics" / "zeroshot_retrieval.py")


@cache
def open_clip_model() -> Any:
    """The module open_clip.model, with `CLIP` and its configurations.

    Of torchvision it only asks for the name of a class, which its towers don't use: one of that name stands in.
    """
    importlib.import_module("transformers")  # looks for torchvision itself, and must not find the stand-in
    package, misc = ModuleType("open_clip"), ModuleType("torchvision.ops.misc")
    package.__path__ = [str(FOLDER / "open_clip")]
    misc.FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})  # type: ignore[attr-defined]
    stand_ins = {"open_clip": package, "torchvision": ModuleType("torchvision")}
    stand_ins |= {"torchvision.ops": ModuleType("torchvision.ops"), "torchvision.ops.misc": misc}
    with mock.patch.dict(sys.modules, stand_ins):
        return importlib.import_module("open_clip.model")


@cache
def sentence_transformers_losses() -> Any:
    """The module sentence_transformers.sentence_transformer.losses."""
    sys.path.append(str(FOLDER))
    module = importlib.import_module("sentence_transformers.sentence_transformer.losses")
    _allow_deprecated_gather()
    return module


@cache
def sentence_transformers_evaluation() -> Any:
    """The module sentence_transformers.sentence_transformer.evaluation, with `InformationRetrievalEvaluator`."""
    sys.path.append(str(FOLDER))
    return importlib.import_module("sentence_transformers.sentence_transformer.evaluation")


def _loaded(file: Path) -> Any:
    """The module of one file, without the package around it."""
    spec = importlib.util.spec_from_file_location(f"peer_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _allow_deprecated_gather() -> None:
    """torch 2.13 says at each call of `torch.distributed.nn.all_gather`, which both use, that it will go."""
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.", category=FutureWarning)
