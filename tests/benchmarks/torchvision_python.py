"""torchvision's transforms where its compiled part does not fit the torch that is installed.

torchvision from PyPI is compiled for the CUDA build of torch. Beside a CPU build its compiled operators
cannot be loaded, and then `import torchvision` fails because it describes two operators that do not exist.
Here these two are declared, without an implementation: everything in Python is torchvision's own,
transforms of PIL images among it. Called by the contestants that import torchvision.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any


@cache
def load_torchvision() -> Any:
    """The module torchvision."""
    import torch

    found = importlib.util.find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    try:
        torch.ops.load_library(str(Path(found.origin).with_name("_C.so")))
    except OSError:
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    import torchvision

    return torchvision
