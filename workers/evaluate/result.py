"""What an evaluation returns, and what of it is kept."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Scores:
    """The outcome of an evaluation; all scores are better when larger and lie in 0…1."""

    main: str
    """Name of the main score."""
    scores: dict[str, float]
    samples: int
    """Samples that were scored."""
    skipped: int
    """Samples that could not be read or decoded, and were not scored."""
    chance: float
    """Main score of a model that knows nothing."""


@dataclass(frozen=True)
class Result:
    """One evaluation of one checkpoint, as kept in the run directory."""

    evaluation: str
    """Its name in the spec."""
    kind: str
    spec_hash: str
    """`evaluation_hash` of the section that it was done for."""
    step: int
    """Optimizer steps behind the checkpoint."""
    checkpoint: str
    """URI."""
    seconds: float
    result: Scores

    def to_json(self) -> bytes:
        """As stored."""
        fields = asdict(self)
        return json.dumps(fields | fields.pop("result"), indent=2).encode()
