"""Where curves go: nothing of it changes a run, and no password stands in a spec."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobspecs.identity import Effect, meaning_of
from jobspecs.tracking import Mlflow, Tracking, Wandb


def test_a_run_goes_on_wherever_its_curves_go() -> None:
    assert meaning_of(("tracking", "wandb", "project"), mines=False).effect is Effect.COSMETIC
    assert Tracking() == Tracking(tensorboard=True, mlflow=None, wandb=None)


def test_a_password_in_the_address_of_a_server_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"should be a server \(https://mlflow\.example\).*, without a user"):
        Mlflow(uri="https://user:secret@mlflow.example")
    assert Mlflow(uri="sqlite:///runs.db").uri == "sqlite:///runs.db"
    with pytest.raises(ValidationError, match="project"):
        Wandb(project="")
