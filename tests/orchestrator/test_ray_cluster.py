"""What Ray says of its nodes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.ray_cluster import draining_nodes

DRAINED = """
import time
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from orchestrator.ray_cluster import draining_nodes

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)

@ray.remote(num_cpus=1)
class Busy:  # a node that does nothing would be gone at once
    def begin(self):
        return True

busy = Busy.remote()
ray.get(busy.begin.remote())
assert draining_nodes() == set()
reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
GcsClient(address=cluster.address).drain_node(node.node_id, reason, "preempted", int(1000 * (time.time() + 60)))
while not draining_nodes():
    time.sleep(0.1)
print(draining_nodes() == {node.node_id})
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
def test_a_node_that_is_preempted_is_said_to_be_draining() -> None:
    """On a cluster of its own: the session's has one node."""
    answer = subprocess.run([sys.executable, "-c", DRAINED], capture_output=True, text=True, timeout=240, check=True)
    assert answer.stdout.splitlines()[-1] == "True"


def test_a_ray_that_does_not_tell_knows_of_no_draining_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.state.state", object())
    assert draining_nodes() == set()
