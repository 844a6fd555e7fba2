"""The peers' losses, from where the Makefile installs them (`make peers`, some 3 MB).

open_clip's losses stand in one file that needs torch alone, while the package around it imports torchvision and
timm: only that file is loaded. sentence-transformers is imported whole, which takes about 10 s, with a folder on
`sys.path` that the process keeps: call it in a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "build" / "benchmarks" / "peers_loss"
INSTALL = "the peers are not installed: `make peers` does it"


def installed() -> bool:
    """Whether both are there."""
    return all((FOLDER / package).is_dir() for package in ("open_clip", "sentence_transformers"))


@cache
def open_clip_losses() -> Any:
    """The module open_clip.loss, with `ClipLoss` and `SigLipLoss`."""
    spec = importlib.util.spec_from_file_location("open_clip_loss", FOLDER / "open_clip" / "loss.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _allow_deprecated_gather()
    return module


@cache
def sentence_transformers_losses() -> Any:
    """The module sentence_transformers.sentence_transformer.losses."""
    sys.path.append(str(FOLDER))
    module = importlib.import_module("sentence_transformers.sentence_transformer.losses")
    _allow_deprecated_gather()
    return module


def _allow_deprecated_gather() -> None:
    """torch 2.13 says at each call of `torch.distributed.nn.all_gather`, which both use, that it will go."""
    warnings.filterwarnings("ignore", message=r"torch\.distributed\.nn\.functional\.", category=FutureWarning)
