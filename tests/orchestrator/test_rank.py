"""What a rank's log keeps of the exception that ended it, and the driver learns."""

from __future__ import annotations

import contextlib
import pickle
from types import SimpleNamespace

import pytest
import ray
import ray.train

from orchestrator import rank
from workers.train import loop


def test_a_rank_prints_its_traceback_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A group keeps its message read-only: what is printed has to be looked through itself."""

    def fails(*_: object) -> None:
        raise ExceptionGroup("hf_" + "pa55" * 5, [ValueError("http://me:pa55@host")])

    context = SimpleNamespace(get_world_rank=lambda: 0)
    storage = SimpleNamespace(s3=None)
    task = SimpleNamespace(spec=SimpleNamespace(name="a", storage=storage), run=None, attempt=1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray, "get", lambda task: task)
    for name in ("KeepLog", "Beating", "RankTelemetry"):
        monkeypatch.setattr(rank, name, lambda *_, **__: contextlib.nullcontext(SimpleNamespace(step=None)))
    monkeypatch.setattr(loop, "train", fails)
    told = []
    desk = SimpleNamespace(
        take=SimpleNamespace(remote=lambda: pickle.dumps(task)),
        tell=SimpleNamespace(remote=lambda *words: told.append(words)),
    )
    with pytest.raises(ExceptionGroup):
        rank.run_rank({"desk": desk})
    printed = capfd.readouterr().err
    assert told == [(1, 0, printed)]
    assert "ExceptionGroup: *** (1 sub-exception)" in printed
    assert "ValueError: http://***@host" in printed
