"""`tracking:` where the curves of a job go beside its run directory. Keys and passwords never stand in a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jobspecs.base import Pattern, Section

TrackingUri = Annotated[
    str,
    Pattern(
        r"^[^\s@]+$", "a server (https://mlflow.example), a folder or a database (sqlite:///runs.db), without a user"
    ),
]
"""Where MLflow keeps runs."""


class Mlflow(Section):
    """MLflow, by the extra `mlflow`. User and password come from its own variables (`MLFLOW_TRACKING_USERNAME`, …)."""

    uri: TrackingUri | None = None
    """A server, a folder or a database. Null takes MLflow's own setting (`MLFLOW_TRACKING_URI`)."""
    experiment: str | None = Field(default=None, min_length=1)
    """Name of the experiment that the run belongs to. Null takes the job's."""


class Wandb(Section):
    """Weights & Biases, by the extra `wandb`. Its key comes from `WANDB_API_KEY` or `wandb login`."""

    project: str = Field(min_length=1)
    """Project that the run belongs to."""
    entity: str | None = Field(default=None, min_length=1)
    """User or team that the project belongs to. Null takes the key's own."""
    offline: bool = False
    """Writes to a folder on the driver's machine alone; `wandb sync` sends it later."""


class Tracking(Section):
    """Where the curves of a job go beside its run directory. No tracker can hold a job up, or take it down."""

    tensorboard: bool = True
    """TensorBoard's event files, in `<run directory>/tensorboard`."""
    mlflow: Mlflow | None = None
    """MLflow."""
    wandb: Wandb | None = None
    """Weights & Biases."""
