"""What Ray says of its nodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest

from jobspecs.cluster import Cluster
from orchestrator.ray_cluster import answering, ask_for, draining_nodes, free_workers, own_dashboard, start_ray
from tests.orchestrator.conftest import digits_spec

DRAINED = """
import time
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from jobspecs.cluster import Cluster as Wanted
from orchestrator.ray_cluster import draining_nodes, free_workers

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)

@ray.remote(num_cpus=1)
class Busy:  # a node that does nothing would be gone at once
    def begin(self):
        return True

busy = Busy.remote()
ray.get(busy.begin.remote())
other = cluster.add_node(num_cpus=3)
while [free_workers(Wanted(cpus_per_worker=each)) for each in (1, 2, 4)] != [3, 1, 0]:  # told now and then
    time.sleep(0.1)
assert ray._private.state.available_resources_per_node()[other.node_id]["CPU"] == 3
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


@pytest.mark.ray
def test_a_ray_of_this_machine_is_closed_to_others(ray_cluster: None) -> None:
    """Its dashboard, which takes jobs, listens on loopback and asks for a token."""
    import ray

    host, port = ray._private.worker.global_worker.node.webui_url.split(":")
    assert host == "127.0.0.1"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{host}:{port}/api/jobs/")
    with refused.value:  # it is the answer, too, and holds its connection
        assert refused.value.code == 401


def test_a_ray_that_does_not_tell_knows_of_no_draining_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._private.state.state", object())
    assert draining_nodes() == set()


def test_a_ray_that_does_not_tell_its_dashboard_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray._private.worker.get_dashboard_url", lambda: "127.0.0.1:8299")
    with monkeypatch.context() as later:
        later.delattr("ray.train.v2._internal.constants.ENV_VARS_TO_PROPAGATE")
        with own_dashboard():
            assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:8299"
    monkeypatch.delattr("ray._private.worker.get_dashboard_url")
    with own_dashboard():
        assert dict(os.environ) == before


def test_a_node_that_is_gone_does_not_answer_whatever_ray_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, listener: socket.socket, alive: bool = True) -> dict[str, Any]:
        address, port = listener.getsockname()
        return {"NodeID": name, "Alive": alive, "NodeManagerAddress": address, "NodeManagerPort": port}

    with socket.create_server(("127.0.0.1", 0)) as there:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nodes = [node("there", there), node("gone", gone), node("dead", there, alive=False)]
        monkeypatch.setattr("ray.nodes", lambda: nodes)
        assert answering() == {"there"}


def test_room_is_what_is_free_on_single_nodes_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2-core workers: one core each on two nodes is room for none, nor is what a node has that drains or is dead."""
    free = {"a": {"CPU": 1.0}, "b": {"CPU": 1.0}, "c": {"CPU": 5.0, "GPU": 1.0}, "drains": {"CPU": 8.0}, "dead": {}}
    nodes = [{"NodeID": node, "Alive": node != "dead", "Resources": {"CPU": 8.0}} for node in free]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray._private.state.available_resources_per_node", lambda: free)
    monkeypatch.setattr("orchestrator.ray_cluster.draining_nodes", lambda: {"drains"})
    assert free_workers(Cluster(cpus_per_worker=2)) == 2
    assert free_workers(Cluster(cpus_per_worker=2, gpus_per_worker=1)) == 1
    monkeypatch.delattr("ray._private.state.available_resources_per_node")
    monkeypatch.setattr("ray.available_resources", lambda: {"CPU": 7.0})
    assert free_workers(Cluster(cpus_per_worker=2)) == 3


@pytest.mark.parametrize(
    ("overrides", "cores", "cpus"),
    [
        (("evaluations=[]",), 8, 12),  # one that the caller does not know of
        ((), 8, 12),  # what a worker reserves
        (("evaluations.0.resources={cpus: 6}",), 8, 14),
        (("evaluations.0.resources={cpus: 1}",), 8, 12),
        ((), 64, 64),
    ],
)
def test_a_ray_of_this_machine_has_room_for_an_evaluation_beside_all_workers(
    overrides: tuple[str, ...], cores: int, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **settings: started.append(settings))
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    spec = digits_spec("/data", "/runs", "cluster.workers=2", "cluster.cpus_per_worker=4", *overrides)
    start_ray(spec.cluster, spec.evaluations)
    assert [settings["num_cpus"] for settings in started] == [cpus]


def test_an_autoscaler_is_asked_where_there_may_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, float]]] = []
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ask_for(Cluster(), 2)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    ask_for(Cluster(cpus_per_worker=4, gpus_per_worker=1), 2)
    ask_for(Cluster(), 0)
    assert asked == [[{"CPU": 4.0, "GPU": 1.0}] * 2, []]


def test_an_autoscaler_that_does_not_answer_is_not_worth_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def away(bundles: list[dict[str, float]]) -> None:
        asked.append(len(bundles))
        raise RuntimeError("the head is away")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", away)
    ask_for(Cluster(), 2)
    assert asked == [2]
