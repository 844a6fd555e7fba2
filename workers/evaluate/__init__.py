"""Evaluations of a committed checkpoint: one file a task.

`KINDS` maps the `kind` of a spec's section to the function that does it; a new evaluation is a section
in jobspecs/evaluation.py, a file here and a line there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.evaluate.encode import Encoder
from workers.evaluate.health import health
from workers.evaluate.knn import knn
from workers.evaluate.linear_probe import linear_probe
from workers.evaluate.result import Scores
from workers.evaluate.retrieval import retrieval
from workers.evaluate.sts import sts
from workers.evaluate.zero_shot import zero_shot

KINDS: dict[str, Callable[[Any, Encoder], Scores]] = {
    "zero_shot": zero_shot,
    "retrieval": retrieval,
    "knn": knn,
    "linear_probe": linear_probe,
    "sts": sts,
    "health": health,
}
"""kind -> f(section of the spec, encoder of the checkpoint) -> scores."""
