"""Weights & Biases: an extra. Its key comes from `WANDB_API_KEY` or `wandb login`, never from a spec.

`offline: true` writes to the folder `wandb/` on the driver's machine alone; `wandb sync` sends it later. The id is that
of the run directory, so a job that was interrupted goes on under the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.trackers import scalars

if TYPE_CHECKING:
    from orchestrator.prepare import Prepared


class WandbTracker:
    """Tells Weights & Biases of a run."""

    def __init__(self, job: Prepared, key: str) -> None:
        import wandb

        section, spec = job.spec.tracking.wandb, job.spec
        assert section is not None
        self._run = wandb.init(
            id=key,
            name=spec.name,
            project=section.project,
            entity=section.entity,
            mode="offline" if section.offline else None,
            resume=None if section.offline else "allow",  # offline, the id alone makes it one run when it is synced
            config={**spec.model_dump(mode="json"), "run_directory": job.run.uri},
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )
        # Its own counter of steps can't go back, as a job does after a failure.
        self._run.define_metric("*", step_metric="step")

    def event(self, event: Mapping[str, Any]) -> None:
        """An event of the ledger."""
        found = scalars.of_event(event)
        if found is not None:
            self._run.log({"step": found[0], **found[1]})
        elif event["event"] == "run_failed":
            self._run.finish(exit_code=1)

    def steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """New metrics of steps."""
        for record in records:
            self._run.log({"step": record["step"], **scalars.of_record(record)})

    def close(self) -> None:
        """Waits for what is still to be sent."""
        self._run.finish()
