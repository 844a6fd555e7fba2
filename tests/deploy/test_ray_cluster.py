"""deploy/ray-cluster/aws.yaml, by the schema of the Ray that is installed."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "ray-cluster" / "aws.yaml").read_text())
    return config


def test_it_fits_the_launchers_schema(config: dict[str, Any]) -> None:
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    schema = json.loads(Path(ray.origin).with_name("autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(config, schema)


def test_workers_are_spot_and_ranks_stay_off_the_head(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types["workers"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types[config["head_node_type"]]["node_config"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}


def test_the_image_has_the_ray_that_is_pinned(config: dict[str, Any]) -> None:
    pin = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert config["docker"]["image"] == f"rayproject/ray:{pin[1]}-py311-gpu"


def test_tokens_are_on_and_the_dashboard_is_not_exposed(config: dict[str, Any]) -> None:
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "security_group" not in config["provider"], "Ray's own lets in SSH, and its nodes to each other"
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
