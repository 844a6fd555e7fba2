"""Tests of the worker core on a GPU: `make test-gpu`. Without one they are not collected."""

from __future__ import annotations

import torch

collect_ignore_glob = [] if torch.cuda.is_available() else ["test_*.py"]
