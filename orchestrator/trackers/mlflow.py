"""MLflow: an extra. On a server, or in a folder or database of this machine where `tracking.mlflow.uri` names one.

The run is found again by a tag, so a job that was interrupted goes on under the same run id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobspecs.identity import leaves
from jobspecs.job import JobSpec
from orchestrator.trackers import scalars

if TYPE_CHECKING:
    from orchestrator.prepare import Prepared

KEY = "tandem.run"
"""The tag by which a run is found."""
MOST_METRICS, MOST_PARAMS = 1000, 100
"""Of one call: MLflow's own bounds."""
_ENDS = {"run_succeeded": "FINISHED", "run_failed": "FAILED", "run_interrupted": "KILLED"}


class MlflowTracker:
    """Tells MLflow of a run."""

    def __init__(self, job: Prepared, key: str) -> None:
        from mlflow import MlflowClient

        section, spec = job.spec.tracking.mlflow, job.spec
        assert section is not None
        self._client = MlflowClient(tracking_uri=section.uri)
        name = section.experiment or spec.name
        there = self._client.get_experiment_by_name(name)
        experiment = there.experiment_id if there is not None else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], filter_string=f"tags.`{KEY}` = '{key}'", max_results=1)
        if found:
            self.run_id: str = found[0].info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            made = self._client.create_run(experiment, tags={KEY: key, "tandem.uri": job.run.uri}, run_name=spec.name)
            self.run_id = made.info.run_id
            self._log_spec(spec)

    def event(self, event: Mapping[str, Any]) -> None:
        """An event of the ledger."""
        found = scalars.of_event(event)
        if found is not None:
            self._log([(*found, event["time"])])
        if event["event"] in _ENDS:
            self._client.set_terminated(self.run_id, status=_ENDS[event["event"]])

    def steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """New metrics of steps."""
        self._log([(record["step"], scalars.of_record(record), record["time"]) for record in records])

    def close(self) -> None:
        """All was sent."""

    def _log(self, told: Sequence[tuple[int, Mapping[str, float], float]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_allowed(name), value, int(1000 * at), step)
            for step, values, at in told
            for name, value in values.items()
        ]
        for part in _parts(metrics, MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=part)

    def _log_spec(self, spec: JobSpec) -> None:
        from mlflow.entities import Param

        params = [
            Param(_allowed(".".join(path)), str(value)[:500])
            for path, value in leaves(spec.model_dump(mode="json"))
            if value is not None
        ]
        for part in _parts(params, MOST_PARAMS):
            self._client.log_batch(self.run_id, params=part)


def _allowed(name: str) -> str:
    """MLflow takes no other characters: acc@1 is acc_at_1 there."""
    return re.sub(r"[^\w\-./ ]", "_", name.replace("@", "_at_"))


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
