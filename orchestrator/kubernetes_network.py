"""Who may reach the pods of a job: each other, and KubeRay's operator the dashboard.

Whoever reaches a Ray cluster and has its token can run code on it. Nobody else is let in here, the token is the second
lock, and the dashboard is seen through `kubectl port-forward`, which asks Kubernetes for permission.
"""

from __future__ import annotations

from typing import Any

from jobspecs.kubernetes import Kubernetes
from orchestrator.kubernetes_pods import DASHBOARD, METRICS, pod_labels

_OPERATOR = {
    # In whatever namespace it is: its chart and its kustomization name it differently.
    "namespaceSelector": {},
    "podSelector": {
        "matchExpressions": [
            {"key": "app.kubernetes.io/name", "operator": "In", "values": ["kuberay-operator", "kuberay"]}
        ]
    },
}


def network_policy(name: str, kubernetes: Kubernetes) -> dict[str, Any]:
    """The NetworkPolicy of the pods of the object `name`. Where they go themselves is not restricted: to storage, to
    the hub."""
    pods = {"matchLabels": pod_labels(name)}
    ingress: list[dict[str, Any]] = [
        {"from": [{"podSelector": pods}]},
        {"from": [_OPERATOR], "ports": [{"protocol": "TCP", "port": DASHBOARD}]},
    ]
    if kubernetes.monitoring_namespace is not None:
        namespace = {"matchLabels": {"kubernetes.io/metadata.name": kubernetes.monitoring_namespace}}
        ingress.append({"from": [{"namespaceSelector": namespace}], "ports": [{"protocol": "TCP", "port": METRICS}]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": pod_labels(name)},
        "spec": {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": ingress},
    }
