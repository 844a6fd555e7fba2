"""`cluster.kubernetes:` what `tandem render kubernetes` needs beyond the rest of the spec. Training reads none of it.

Secrets stand here by their names in Kubernetes only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobspecs.base import Pattern, Section, defaults, misplaced
from jobspecs.units import NonNegativeInt, PositiveInt, Size, Timed

ObjectName = Annotated[
    str,
    Pattern(
        r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$",
        "a name of Kubernetes: lower-case letters, digits, '-' and '.', a letter or digit first and last",
    ),
]
"""The name of an object of Kubernetes."""

GIB = 1 << 30


class Toleration(Section):
    """A taint that worker pods may be placed in spite of."""

    key: str = Field(min_length=1)
    """Key of the taint, such as `nvidia.com/gpu`."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether any value is tolerated, or `value` alone."""
    value: str | None = None
    """Value of the taint, for `Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. None is any."""

    @model_validator(mode="after")
    def _value_fits(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise misplaced("value", "value goes with operator Equal, and Equal needs one")
        return self


class Claim(Section):
    """A volume that all pods share."""

    claim: ObjectName
    """Name of the PersistentVolumeClaim; one that many pods can write (ReadWriteMany)."""
    path: Annotated[str, Pattern(r"^/[^:]*[^:/]$", "an absolute path, without a slash at its end")]
    """Where it is in the pods."""


class Head(Section):
    """The head pod: Ray's own processes and the job's driver. Its cores are not offered to workers."""

    cpus: PositiveInt = 2
    """CPU cores."""
    memory: Size = 8 * GIB
    """Main memory."""


class Kubernetes(Section):
    """Pods that a job runs in."""

    image: str = Field(min_length=1)
    """The container image, built from deploy/Dockerfile: `registry/tandem:0.1.0-cuda`."""
    pull_secrets: list[ObjectName] = Field(default=[])
    """Names of secrets that the registry asks for."""
    workers_per_pod: PositiveInt = 1
    """Ranks in one pod. As many as a node has GPUs lets them share its memory and links."""
    memory_per_worker: Size = 16 * GIB
    """Main memory for each rank, shared memory included."""
    shared_memory: Size = 8 * GIB
    """Size of a pod's /dev/shm, for Ray's object store and NCCL. Kubernetes' own 64 MiB are too few."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the nodes that worker pods are placed on, such as `cloud.google.com/gke-spot: "true"`."""
    tolerations: list[Toleration] = Field(default=[])
    """Taints that worker pods tolerate."""
    secrets: list[ObjectName] = Field(default=[])
    """Names of secrets whose keys become environment variables: AWS_ACCESS_KEY_ID, HF_TOKEN and the like."""
    service_account: ObjectName | None = None
    """The pods' service account, where credentials come from the cloud's role for it. None is the namespace's own."""
    token_secret: ObjectName | None = None
    """Name of a secret whose key `auth_token` is the cluster's token. None lets KubeRay make one."""
    claims: list[Claim] = Field(default=[])
    """Shared volumes, for data and runs that are not in object storage."""
    queue: ObjectName | None = None
    """Kueue's LocalQueue. None is not queued: Kubernetes places pods as they come."""
    backoff_limit: NonNegativeInt = 3
    """New clusters that follow on a head that died; each goes on from the newest checkpoint."""
    grace_seconds: Annotated[int, Field(ge=10), Timed(1)] = 120
    """Time that a pod has to leave in: the job saves a checkpoint meanwhile. Clouds give spot nodes 25 to 120 s."""
    monitoring_namespace: ObjectName | None = None
    """Namespace that may read the metrics of the pods. None is nobody."""
    head: Head = defaults(Head)
    """The head pod."""

    @model_validator(mode="after")
    def _memory_fits(self) -> Kubernetes:
        if self.shared_memory > self.memory_per_worker * self.workers_per_pod:
            raise misplaced(
                "shared_memory",
                f"shared_memory {self.shared_memory} is above the pod's memory, "
                f"{self.memory_per_worker * self.workers_per_pod}",
                "What is in it counts as the pod's memory: raise memory_per_worker.",
            )
        return self
