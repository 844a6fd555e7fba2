"""When the alerts of `deploy/monitoring/` fire, by Prometheus' own tool for such tests."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.orchestrator.monitoring import MONITORING
from tests.orchestrator.prometheus import INSTALLED

pytestmark = pytest.mark.skipif(not INSTALLED, reason="Prometheus is not installed")

JOB = 'tandem_job="digits"'
BEGAN = 'ray_tandem_failures{tandem_job="digits",kind="hang",WorkerId="1"}'
"""Of a driver; another one of the same job is another series."""
LASTS = 600
"""Minutes that a series lasts."""


def training(*, steps: str, newest: str, commit: str) -> dict[str, str]:
    """A job of 100 steps, minute by minute. newest, commit: when each was, in seconds."""
    return {
        f'ray_tandem_step{{{JOB},attempt="1"}}': steps,
        f"ray_tandem_total_steps{{{JOB}}}": f"100x{LASTS}",
        f"ray_tandem_last_step_time_seconds{{{JOB}}}": newest,
        f"ray_tandem_last_commit_time_seconds{{{JOB}}}": commit,
    }


def check(folder: Path, series: dict[str, str], fires: dict[str, list[str]]) -> None:
    """series: values a minute, in promtool's notation. fires: the names of the alerts at each time."""
    asked = [
        {
            "expr": 'count by (alertname, tandem_job) (ALERTS{alertstate="firing"})',
            "eval_time": time,
            "exp_samples": [{"labels": f'{{alertname="{alert}",{JOB}}}', "value": 1} for alert in alerts],
        }
        for time, alerts in fires.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test: dict[str, Any] = {
        "rule_files": [str(MONITORING / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": asked}],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(test))
    answer = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_retries_are_told_of_from_a_drivers_first_minutes_on(tmp_path: Path) -> None:
    failures = {BEGAN: f"0 0 1 1 2 2 3x{LASTS}"}
    check(tmp_path, failures, {"5m": [], "6m": ["TandemRetries"], "59m": ["TandemRetries"], "70m": []})


def test_failures_of_several_kinds_and_drivers_are_one_jobs(tmp_path: Path) -> None:
    two = {
        BEGAN: "0 1 1 stale",
        BEGAN.replace("hang", "oom"): "0 0 1 stale",
        BEGAN.replace('WorkerId="1"', 'WorkerId="2"'): f"_ _ _ _ 0 0 1x{LASTS}",
    }
    check(tmp_path, two, {"2m": [], "5m": [], "6m": ["TandemRetries"]})


def test_a_few_failures_within_many_hours_are_none_to_look_at(tmp_path: Path) -> None:
    check(tmp_path, {BEGAN: f"0x50 1x50 2x50 3x{LASTS}"}, {"10m": [], "160m": [], "300m": []})


def test_a_driver_that_has_ended_alerts_no_longer(tmp_path: Path) -> None:
    check(tmp_path, {BEGAN: "0 1 2 3 3 3 stale"}, {"5m": ["TandemRetries"], "7m": []})


def test_training_that_stands_still_is_told_of(tmp_path: Path) -> None:
    stands = training(steps=f"0+1x40 40x{LASTS}", newest=f"0+60x40 2400x{LASTS}", commit=f"0+60x40 2400x{LASTS}")
    fires = {"40m": [], "55m": [], "56m": ["TandemNoProgress"], "161m": ["TandemNoProgress", "TandemNoCommit"]}
    check(tmp_path, stands, fires)


def test_a_job_that_never_begins_is_told_of(tmp_path: Path) -> None:
    waits = training(steps="_", newest=f"0x{LASTS}", commit=f"0x{LASTS}")
    check(tmp_path, waits, {"15m": [], "16m": ["TandemNoProgress"]})


def test_no_step_or_commit_is_missed_while_evaluations_run_after_the_last(tmp_path: Path) -> None:
    evaluates = training(steps=f"0+5x20 100x{LASTS}", newest=f"0+60x20 1200x{LASTS}", commit=f"0x21 1260x{LASTS}")
    check(tmp_path, evaluates, {"20m": [], "60m": [], "300m": []})
