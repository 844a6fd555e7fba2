"""The figures of a job: what they are made of, that the board and the alerts know them, and how they come to Ray."""

from __future__ import annotations

import subprocess
from dataclasses import fields, replace
from typing import Any

import pytest

from orchestrator import exporter
from orchestrator.exporter import Exporter
from orchestrator.telemetry import METRICS, RankFigures, RunFigures, figure
from tests.orchestrator.monitoring import BOARD, EXPRESSIONS, MONITORING, PANELS, QUERIES, RULES, named
from tests.orchestrator.prometheus import INSTALLED
from workers.data.rows import BadSample
from workers.train.record import StepMetrics

RECORD: dict[str, Any] = {
    "step": 7, "loss": 1.5, "samples_per_second": 40.0, "data_wait_fraction": 0.25, "logit_scale": 14.0,
    "learning_rate": 1e-3, "grad_norm": None, "world_size": 2, "attempt": 1, "time": 70.0,
    "health": {"accuracy": 0.5, "mean_cosine": {"image": 0.75}, "effective_rank": {"image": 9.0}},
}  # fmt: skip


def of(figures: RunFigures | RankFigures, name: str, **tags: str) -> float | None:
    return figures.values.get(figure(METRICS[name], **tags))


def test_what_the_driver_knows_of_a_run() -> None:
    figures = RunFigures(total_steps=40, now=10.0)
    assert of(figures, "tandem_last_step_time_seconds") == of(figures, "tandem_last_commit_time_seconds") == 10.0
    assert of(figures, "tandem_failures", kind="hang") == 0.0, "Prometheus counts from there"
    figures.event({"event": "attempt_started", "attempt": 1, "time": 20.0})
    figures.steps([{**RECORD, "step": 6, "grad_norm": 3.0}, RECORD])
    assert of(figures, "tandem_step", attempt="1") == 7.0
    assert of(figures, "tandem_grad_norm", attempt="1") == 3.0, "what is no number stays as it was"
    assert of(figures, "tandem_mean_cosine", attempt="1", side="image") == 0.75
    assert of(figures, "tandem_last_step_time_seconds") == 70.0
    figures.event({"event": "checkpoint_committed", "time": 71.0, "bytes": 1000, "seconds": 0.5})
    figures.event({"event": "checkpoint_committed", "time": 81.0})  # its manifest could not be read
    assert of(figures, "tandem_last_commit_time_seconds") == 81.0
    assert of(figures, "tandem_checkpoint_bytes") == 1000.0
    figures.event({"event": "evaluation_finished", "evaluation": "digits", "main": "acc@1", "score": 0.9, "step": 4})
    figures.event({"event": "attempt_failed", "kind": "hang", "attempt": 1})
    figures.event({"event": "attempt_ended", "attempt": 2})  # it grew: no failure
    figures.event({"event": "attempt_started", "attempt": 3, "time": 90.0})
    assert of(figures, "tandem_failures", kind="hang") == 1.0
    assert sum(value for (name, _), value in figures.values.items() if name == "tandem_failures") == 1.0
    assert of(figures, "tandem_evaluation_score", evaluation="digits", score="acc@1") == 0.9
    assert of(figures, "tandem_loss", attempt="1") is None, "an attempt that is over has no newest step"


def test_what_a_rank_knows_of_itself() -> None:
    plain: dict[str, Any] = {field.name: 1 for field in fields(StepMetrics)}
    step = StepMetrics(**plain | {"phase_seconds": {"data": 0.5, "save": 0.25}, "storage_bytes": 100})
    figures = RankFigures()
    figures.step(step, [BadSample(uri="file:///x.tar", place=3, key="k", cause="truncated")])
    figures.step(replace(step, phase_seconds={"data": 0.5}), [])
    assert of(figures, "tandem_step_seconds", phase="data") == 1.0
    assert of(figures, "tandem_step_seconds", phase="save") == 0.25
    assert of(figures, "tandem_masked_rows", cause="truncated") == 1.0
    assert of(figures, "tandem_storage_bytes") == 200.0
    assert of(figures, "tandem_gathered_bytes") == 2.0


def test_gauges_are_set_and_counters_brought_to_their_value(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float, dict[str, str]]] = []

    class Fake:
        def __init__(self, name: str, words: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.tag_keys = name, tag_keys

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert sorted(tags) == sorted(self.tag_keys)
            told.append((self.name, value, tags))

    class FakeGauge(Fake):
        def __getattr__(self, name: str) -> Any:
            assert name == "set"
            return self.inc

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.util.metrics.Gauge", FakeGauge)
    monkeypatch.setattr("ray.util.metrics.Counter", Fake)
    values = {figure(METRICS["tandem_storage_bytes"]): 100.0, figure(METRICS["tandem_memory_bytes"], device="cpu"): 5.0}
    tags = {"tandem_job": "x", "attempt": "1", "rank": "0"}
    publishing = Exporter(lambda: values, tags)
    publishing.publish()
    values[figure(METRICS["tandem_storage_bytes"])] = 130.0
    publishing.publish()
    publishing.publish()
    assert [value for name, value, _ in told if name == "tandem_storage_bytes"] == [100.0, 30.0]
    assert [value for name, value, _ in told if name == "tandem_memory_bytes"] == [5.0, 5.0, 5.0]
    assert told[1][2] == {**tags, "device": "cpu"}


def test_without_ray_nothing_is_published_and_nothing_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []  # what the values raise is not: it may not reach the job

    def values() -> dict[exporter.Figure, float]:
        asked.append(True)
        return {}

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    Exporter(values, {}).publish()
    assert asked == []


def test_the_board_and_the_alerts_name_declared_metrics_and_the_board_shows_all() -> None:
    declared = {metric.exposed for metric in METRICS.values()}
    assert named(QUERIES) == declared
    assert named(EXPRESSIONS) <= declared
    assert {rule["alert"] for rule in RULES} == {f"Tandem{what}" for what in
            ("NoProgress", "NoCommit", "DataBound", "Collapsing", "Retries")}  # fmt: skip


def test_the_board_is_one_that_grafana_can_lay_out() -> None:
    assert {"title", "uid", "schemaVersion", "time", "templating", "panels"} <= BOARD.keys()
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all("$tandem_job" in target["expr"] for target in panel["targets"]), panel["title"]


def test_no_step_is_missing_once_training_is_over() -> None:
    early = RunFigures(total_steps=40, now=10.0)
    early.event({"event": "attempt_started", "attempt": 2, "time": 20.0})
    early.steps([{**RECORD, "attempt": 2}])
    early.event({"event": "training_finished", "step": 7})
    assert of(early, "tandem_step", attempt="2") == of(early, "tandem_total_steps") == 7.0
    only_evaluates = RunFigures(total_steps=40, now=10.0)
    only_evaluates.event({"event": "training_finished", "step": 40})
    assert of(only_evaluates, "tandem_step", attempt="0") == of(only_evaluates, "tandem_total_steps") == 40.0


@pytest.mark.skipif(not INSTALLED, reason="Prometheus is not installed")
def test_prometheus_can_read_its_configuration_and_the_rules() -> None:
    for what, file in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        answer = subprocess.run(["promtool", "check", what, MONITORING / file], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout + answer.stderr
