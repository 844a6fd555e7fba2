"""A job spec -> the Kubernetes objects that run it, as plain data. Pure; called by `tandem render kubernetes`.

    rayjob      ConfigMap (the spec), NetworkPolicy, RayJob: a cluster that comes and goes with the job
    raycluster  NetworkPolicy, RayCluster: one that stays, for jobs that are submitted to it

Fields are those of KubeRay's CRDs, ray.io/v1. The pods are those of `kubernetes_pods.py`, and who may reach them is
said in `kubernetes_network.py`.
"""

from __future__ import annotations

import hashlib
import math
import re
from importlib.metadata import version
from typing import Any

import yaml

from jobspecs.errors import UsageError
from jobspecs.job import JobSpec
from jobspecs.kubernetes import Kubernetes
from jobspecs.load import dumps
from orchestrator.absolute_uris import absolute_uris, is_local
from orchestrator.evaluation_task import reserved
from orchestrator.kubernetes_network import network_policy
from orchestrator.kubernetes_pods import SPEC_FILE, Pod, head_pod, pod_labels, submitter_pod, worker_pod
from orchestrator.named_uris import named_models, named_uris
from orchestrator.submission import STOP_VARIABLES, metadata
from workers.run import RunDirectory
from workers.storage import join

Object = dict[str, Any]

_NAME_LENGTH = 47
"""KubeRay makes names of its own out of a RayJob's, and takes no longer ones."""
_IDLE_SECONDS = 300
"""A pod that nothing runs on goes after it; between two attempts none shall."""
_KEPT_SECONDS = 600
"""A finished job's cluster stays so long, for whoever looks at its dashboard."""


def cluster_objects(spec: JobSpec) -> list[Object]:
    """A cluster that stays, as large as the job asks for. Raises UsageError."""
    kubernetes, name = _section(spec), object_name(spec.name)
    cluster = _object("RayCluster", name, spec, kubernetes, _cluster(spec, kubernetes, name, job=False))
    return [network_policy(name, kubernetes), cluster]


def job_objects(spec: JobSpec) -> list[Object]:
    """A cluster that comes and goes with the job. Raises UsageError."""
    kubernetes, name = _section(spec), object_name(spec.name)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": pod_labels(name)},
        "data": {"spec.yaml": dumps(spec)},
    }
    job = {
        "entrypoint": f"tandem run {SPEC_FILE}",
        "metadata": _job_metadata(spec),
        "runtimeEnvYAML": yaml.safe_dump({"env_vars": STOP_VARIABLES}),
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": submitter_pod(name, kubernetes),
        # A head that dies takes the driver with it: the next cluster goes on from the newest checkpoint.
        "backoffLimit": kubernetes.backoff_limit,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "rayClusterSpec": _cluster(spec, kubernetes, name, job=True),
    }
    return [config, network_policy(name, kubernetes), _object("RayJob", name, spec, kubernetes, job)]


def to_yaml(objects: list[Object]) -> str:
    """The objects as `kubectl apply -f -` reads them."""
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, explicit_start=True)


class _Plain(yaml.SafeDumper):
    """Writes what stands in two places twice, without anchors, and text of several lines as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def object_name(name: str) -> str:
    """The job's name as Kubernetes takes it: a label of RFC 1035, which begins with a letter. One that has to change
    gets a hash, so that no two become one.

    digits-clip -> digits-clip
    digits.clip -> digits-clip-1a2b3c4d
    3d-clip     -> job-3d-clip-1a2b3c4d
    """
    plain = re.sub(r"^(?=\d)", "job-", re.sub(r"[._]", "-", name))
    if plain == name and len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: _NAME_LENGTH - 9].rstrip('-')}-{digest}"


def _section(spec: JobSpec) -> Kubernetes:
    """The spec's section, when pods can run the job. Raises UsageError."""
    kubernetes = spec.cluster.kubernetes
    if kubernetes is None:
        raise UsageError(
            "the spec has no section cluster.kubernetes, which names at least the image. Add it, or say "
            "--set cluster.kubernetes.image=registry/tandem:tag"
        )
    _check_places(spec, kubernetes)
    return kubernetes


def _object(kind: str, name: str, spec: JobSpec, kubernetes: Kubernetes, body: Object) -> Object:
    labels = pod_labels(name)
    if kubernetes.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = kubernetes.queue
    metadata = {
        "name": name,
        "labels": labels,
        "annotations": {"tandem/job": spec.name, "tandem/experiment": spec.experiment_hash()[:16]},
    }
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": body}


def _job_metadata(spec: JobSpec) -> dict[str, str]:
    """What a submitted job of the same spec has, so that `tandem list` finds this one too."""
    spec = absolute_uris(spec)
    return metadata(spec, RunDirectory(join(spec.storage.root, spec.name)))


def _cluster(spec: JobSpec, kubernetes: Kubernetes, name: str, *, job: bool) -> Object:
    """A RayCluster's spec. With a range of workers Ray's autoscaler makes the pods and takes them back; Kueue, which
    admits all pods of a job or none, gets a fixed number."""
    fewest, most = (
        math.ceil(workers / kubernetes.workers_per_pod)
        for workers in (spec.cluster.min_workers, spec.cluster.max_workers)
    )
    grows = fewest < most and kubernetes.queue is None
    workers = Pod(
        cpus=spec.cluster.cpus_per_worker * kubernetes.workers_per_pod,
        gpus=spec.cluster.gpus_per_worker * kubernetes.workers_per_pod,
        memory=kubernetes.memory_per_worker * kubernetes.workers_per_pod,
    )
    groups = [
        _group("workers", fewest if grows else most, fewest, most, worker_pod(name, kubernetes, workers), workers)
    ]
    beside = _evaluations(spec, kubernetes)
    if beside is not None:
        few = 0 if grows else 1
        groups.append(_group("evaluations", few, few, 1, worker_pod(name, kubernetes, beside), beside))
    token = {"mode": "token"}
    if kubernetes.token_secret is not None:
        token["secretName"] = kubernetes.token_secret
    cluster: Object = {"rayVersion": version("ray"), "authOptions": token, "enableInTreeAutoscaling": grows}
    if grows:
        cluster["autoscalerOptions"] = {"version": "v2", "idleTimeoutSeconds": _IDLE_SECONDS}
    cluster["headGroupSpec"] = {
        "serviceType": "ClusterIP",
        # No rank is placed beside the driver, whose node is the only one that a job can't lose.
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
        "template": head_pod(name, kubernetes, with_spec=job, scales=grows),
    }
    return {**cluster, "workerGroupSpecs": groups}


def _group(name: str, replicas: int, fewest: int, most: int, template: Object, pod: Pod) -> Object:
    return {
        "groupName": name,
        "replicas": replicas,
        "minReplicas": fewest,
        "maxReplicas": most,
        "rayStartParams": {"num-cpus": str(pod.cpus), "num-gpus": str(pod.gpus)},
        "template": template,
    }


def _evaluations(spec: JobSpec, kubernetes: Kubernetes) -> Pod | None:
    """A pod for the evaluations beside training; None where there are none."""
    tasks = [reserved(each.resources, spec.cluster) for each in spec.evaluations if each.every_checkpoints is not None]
    if not tasks:
        return None
    return Pod(
        cpus=math.ceil(max(task.cpus for task in tasks)),
        gpus=math.ceil(max(task.gpus for task in tasks)),
        memory=max(kubernetes.memory_per_worker, kubernetes.shared_memory),
    )


def _check_places(spec: JobSpec, kubernetes: Kubernetes) -> None:
    """Raises UsageError where data or runs lie in a folder that pods don't share."""
    shared = tuple(f"{claim.path}/" for claim in kubernetes.claims)
    for place, uri in named_uris(spec):
        path = uri.removeprefix("file://")
        if "://" not in path and not path.startswith(shared):
            raise UsageError(
                f"{place}: {uri!r} is a folder that pods don't share, and what is written there is gone with its pod. "
                "Give an s3:// URI, or a path below one of cluster.kubernetes.claims"
            )
    for place, name in named_models(spec):
        if is_local(place, name, spec.storage.root) and not name.removeprefix("file://").startswith(shared):
            raise UsageError(
                f"{place}: {name!r} is a folder that pods don't have. Give a path below one of "
                "cluster.kubernetes.claims, or a name that is no folder here"
            )
