"""What every rank of a test imports, once: the process that imports it forks the ranks (see `ranks.py`)."""

from __future__ import annotations

import os

# DeepSpeed's ZeRO imports a compiled optimizer that nobody uses: 2.6 s of importing the compiler.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import importlib

import torch

from workers.train import loop
from workers.train.deepspeed_config import import_deepspeed

torch.set_num_threads(1)
import_deepspeed(torch.device("cpu"))
for stage in ("stage3", "stage_1_and_2"):
    importlib.import_module(f"deepspeed.runtime.zero.{stage}")
__all__ = ["loop"]
