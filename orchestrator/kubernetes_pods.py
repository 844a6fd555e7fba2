"""The pod templates of a job's cluster: head, workers, and the one that submits the job.

No pod runs as root or may become it, none holds a secret's value, and each has time to leave in (`leave.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobspecs.kubernetes import Kubernetes

Object = dict[str, Any]

SPEC_FILE = "/etc/tandem/spec.yaml"
"""Where the head pod finds the job."""
USER = 1000
"""The user of deploy/Dockerfile."""
DASHBOARD, METRICS = 8265, 8080
"""Ports of Ray's dashboard, which takes jobs, and of its metrics."""
_LEAVE_EARLY_SECONDS = 5
"""Before Kubernetes kills what is left."""
_UNITS = {"Ti": 1 << 40, "Gi": 1 << 30, "Mi": 1 << 20, "Ki": 1 << 10}


@dataclass(frozen=True)
class Pod:
    """What a pod asks for, and gets at most."""

    cpus: int
    gpus: int
    memory: int
    """Bytes."""


def pod_labels(name: str) -> dict[str, str]:
    """Labels by which the network policy knows the pods of the object `name`."""
    return {"app.kubernetes.io/name": "tandem", "app.kubernetes.io/instance": name}


def head_pod(name: str, kubernetes: Kubernetes, *, with_spec: bool, scales: bool) -> Object:
    """Ray's own processes and the driver. scales: whether Ray's autoscaler runs in it, which asks Kubernetes for
    pods."""
    pod = Pod(kubernetes.head.cpus, 0, kubernetes.head.memory)
    template = _template(name, kubernetes, "ray-head", pod)
    spec, container = template["spec"], template["spec"]["containers"][0]
    spec["automountServiceAccountToken"] = scales
    container["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": DASHBOARD},
        {"name": "client", "containerPort": 10001},
        {"name": "metrics", "containerPort": METRICS},
    ]
    if with_spec:
        spec["volumes"].append({"name": "spec", "configMap": {"name": name}})
        container["volumeMounts"].append({"name": "spec", "mountPath": SPEC_FILE.rpartition("/")[0], "readOnly": True})
    return template


def worker_pod(name: str, kubernetes: Kubernetes, pod: Pod) -> Object:
    """Ranks, or evaluation tasks."""
    template = _template(name, kubernetes, "ray-worker", pod)
    if kubernetes.node_selector:
        template["spec"]["nodeSelector"] = dict(kubernetes.node_selector)
    if kubernetes.tolerations:
        template["spec"]["tolerations"] = [
            toleration.model_dump(exclude_none=True) for toleration in kubernetes.tolerations
        ]
    return template


def submitter_pod(name: str, kubernetes: Kubernetes) -> Object:
    """Sends the job to the head and shows its log. It gets no secrets: KubeRay gives it the token."""
    container = {
        "name": "ray-job-submitter",
        "image": kubernetes.image,
        "resources": _resources(Pod(cpus=1, gpus=0, memory=1 << 30)),
        "securityContext": _container_security(),
    }
    spec = {
        **_identity(kubernetes),
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "containers": [container],
    }
    return {"metadata": {"labels": pod_labels(name)}, "spec": spec}


def _template(name: str, kubernetes: Kubernetes, container_name: str, pod: Pod) -> Object:
    shared = min(kubernetes.shared_memory, pod.memory // 2)  # what is in it counts as the pod's memory
    container = {
        "name": container_name,
        "image": kubernetes.image,
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
        "envFrom": [{"secretRef": {"name": secret}} for secret in kubernetes.secrets],
        "resources": _resources(pod),
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *({"name": f"claim-{number}", "mountPath": claim.path} for number, claim in enumerate(kubernetes.claims)),
        ],
        "lifecycle": {"preStop": {"exec": {"command": _leave(kubernetes.grace_seconds)}}},
        "securityContext": _container_security(),
    }
    spec: Object = {
        **_identity(kubernetes),
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": kubernetes.grace_seconds,
        "containers": [container],
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": _quantity(shared)}},
            *(
                {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim.claim}}
                for number, claim in enumerate(kubernetes.claims)
            ),
        ],
    }
    return {"metadata": {"labels": pod_labels(name)}, "spec": spec}


def _identity(kubernetes: Kubernetes) -> Object:
    """Who the pod is, to Kubernetes, to the registry and in itself."""
    identity: Object = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    }
    if kubernetes.service_account is not None:
        identity["serviceAccountName"] = kubernetes.service_account
    if kubernetes.pull_secrets:
        identity["imagePullSecrets"] = [{"name": secret} for secret in kubernetes.pull_secrets]
    return identity


def _container_security() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _resources(pod: Pod) -> Object:
    """Asked for and bounded alike: such pods are the last that a node under pressure evicts."""
    asked = {"cpu": str(pod.cpus), "memory": _quantity(pod.memory)}
    if pod.gpus:
        asked["nvidia.com/gpu"] = str(pod.gpus)
    return {"requests": dict(asked), "limits": asked}


def _quantity(size: int) -> str:
    """Bytes as Kubernetes writes them: 17179869184 -> 16Gi."""
    unit = next((unit for unit, factor in _UNITS.items() if size % factor == 0), None)
    return f"{size // _UNITS[unit]}{unit}" if unit else str(size)


def _leave(grace_seconds: int) -> list[str]:
    return ["python", "-m", "orchestrator.leave", str(max(grace_seconds - _LEAVE_EARLY_SECONDS, 1))]
