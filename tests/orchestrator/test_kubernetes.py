"""A job spec as KubeRay's objects: valid by the published schemas, and what the spec says in them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from jobspecs.errors import UsageError
from jobspecs.job import JobSpec
from jobspecs.load import load, loads
from jobspecs.mining import Mining
from orchestrator.absolute_uris import absolute_uris
from orchestrator.cli import app
from orchestrator.cluster import connect
from orchestrator.kubernetes import cluster_objects, job_objects, object_name, to_yaml
from tests.orchestrator.fake_dashboard import FakeDashboard

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "jobspecs" / "examples" / "digits_clip.yaml"
SCHEMAS = ROOT.parent / "shared" / "schemas"
"""KubeRay's CRDs lie beside the project."""

PLACES = (
    "storage.root=s3://bucket/runs",
    "data.sources.0.urls=['s3://bucket/digits/{00000..00003}.tar']",
    "evaluations.0.data.urls=['/data/test/*.tar']",
)
FULL = """cluster.kubernetes=
  image: registry/tandem:cuda
  pull_secrets: [registry]
  workers_per_pod: 4
  memory_per_worker: 24 GiB
  shared_memory: 16 GiB
  node_selector: {pool: spot}
  tolerations: [{key: nvidia.com/gpu}, {key: spot, operator: Equal, value: "true", effect: NoSchedule}]
  secrets: [aws, hub]
  service_account: trainer
  token_secret: ray-token
  claims: [{claim: datasets, path: /data}]
  backoff_limit: 7
  grace_seconds: 60
  monitoring_namespace: monitoring
  head: {cpus: 3, memory: 10 GiB}
"""
GPUS = ("cluster.gpus_per_worker=1", "cluster.cpus_per_worker=6")
GROWS = "cluster.workers={min: 2, max: 10}"
QUEUED = "cluster.kubernetes.queue=research"


def spec_of(*overrides: str) -> JobSpec:
    return load(EXAMPLE, (*PLACES, FULL, *GPUS, *overrides))


def strict(schema: Any) -> Any:
    """The schema, with no room for fields that it doesn't know: Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    return made


def schema_of(kind: str) -> dict[str, Any]:
    path = SCHEMAS / f"kuberay-{kind.lower()}s-v1.json"
    if not path.exists():
        pytest.skip(f"KubeRay's schema of {kind} is not there: {path}")
    schema: dict[str, Any] = strict(json.loads(path.read_text()))
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, which a CRD does not repeat
    return schema


@pytest.mark.parametrize("overrides", [(), (GROWS,), (GROWS, QUEUED), ("cluster.gpus_per_worker=0",)])
def test_the_objects_fit_kuberays_schemas(overrides: tuple[str, ...]) -> None:
    spec = spec_of(*overrides)
    for objects in (job_objects(spec), cluster_objects(spec)):
        read = list(yaml.safe_load_all(to_yaml(objects)))
        assert read == objects
        ray = read[-1]
        jsonschema.Draft202012Validator(schema_of(ray["kind"])).validate(ray)


def test_the_schemas_find_a_slip() -> None:
    wrong = copy.deepcopy(cluster_objects(spec_of())[-1])
    wrong["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(jsonschema.ValidationError, match="imagePolicy"):
        jsonschema.Draft202012Validator(schema_of("RayCluster")).validate(wrong)


def test_what_the_spec_says_is_there() -> None:
    config, policy, job = job_objects(spec_of(GROWS))
    assert [each["kind"] for each in (config, policy, job)] == ["ConfigMap", "NetworkPolicy", "RayJob"]
    assert loads(config["data"]["spec.yaml"]) == spec_of(GROWS), "the job is the one that was rendered"
    assert job["spec"]["backoffLimit"] == 7
    assert job["spec"]["entrypoint"] == "tandem run /etc/tandem/spec.yaml"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    workers, evaluations = cluster["workerGroupSpecs"]
    # 2 to 10 ranks, 4 in a pod.
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [1, 1, 3]
    assert cluster["enableInTreeAutoscaling"] is True
    assert workers["rayStartParams"] == {"num-cpus": "24", "num-gpus": "4"}
    pod = workers["template"]["spec"]
    container = pod["containers"][0]
    asked = {"cpu": "24", "memory": "96Gi", "nvidia.com/gpu": "4"}
    assert container["resources"] == {"requests": asked, "limits": asked}
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "claim-0", "mountPath": "/data"} in container["volumeMounts"]
    assert container["envFrom"] == [{"secretRef": {"name": "aws"}}, {"secretRef": {"name": "hub"}}]
    assert pod["nodeSelector"] == {"pool": "spot"}
    assert pod["tolerations"][1] == {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    assert pod["serviceAccountName"] == "trainer"
    assert pod["terminationGracePeriodSeconds"] == 60
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["python", "-m", "orchestrator.leave", "55"]
    # An evaluation reserves what a rank does, and comes and goes.
    assert evaluations["rayStartParams"] == {"num-cpus": "6", "num-gpus": "1"}
    assert [evaluations[key] for key in ("minReplicas", "maxReplicas")] == [0, 1]
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0", "no rank beside the driver"
    assert head["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "3", "memory": "10Gi"}


@pytest.mark.parametrize(
    ("overrides", "run"),
    [
        ((), "s3://bucket/runs/digits-clip"),
        (("storage.root=/data/runs",), "file:///data/runs/digits-clip"),
        (("storage.s3.endpoint=http://minio:9000",), "s3://bucket/runs/digits-clip"),
    ],
)
def test_its_entry_on_the_cluster_is_that_of_a_submitted_job(overrides: tuple[str, ...], run: str) -> None:
    spec = spec_of(*overrides)
    job = job_objects(spec)[-1]["spec"]
    with FakeDashboard() as dashboard:
        dashboard.add("digits-clip-x7k2p", "RUNNING", job["metadata"])
        (entry,) = connect(dashboard.url).entries()
    assert (entry.name, entry.run_directory, entry.progress) == ("digits-clip", run, "submitted")
    assert entry.spec_hash == absolute_uris(spec).experiment_hash()[:16]
    assert entry.s3_endpoint == spec.storage.s3.endpoint


def test_a_job_that_is_stopped_has_time_for_a_commit() -> None:
    job = job_objects(spec_of())[-1]["spec"]
    assert yaml.safe_load(job["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "300"}}


def test_a_queue_gets_a_fixed_number_of_pods() -> None:
    job = job_objects(spec_of(GROWS, QUEUED))[-1]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    assert [group["replicas"] for group in cluster["workerGroupSpecs"]] == [3, 1]


@pytest.mark.parametrize("job", [True, False])
def test_no_pod_is_root_or_holds_a_secrets_value(job: bool) -> None:
    objects = job_objects(spec_of()) if job else cluster_objects(spec_of())
    spec = objects[-1]["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    pods = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    pods += [spec["submitterPodTemplate"]] if job else []
    policy = objects[-2]["spec"]
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["automountServiceAccountToken"] is False, "nothing in it asks Kubernetes for anything"
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert [each["name"] for each in container.get("env", [])] in ([], ["RAY_USAGE_STATS_ENABLED"])


def test_who_may_reach_the_pods() -> None:
    _, policy, _ = job_objects(spec_of())
    own, operator, monitoring = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert operator["from"][0]["podSelector"], "no whole namespace"
    assert [port["port"] for port in monitoring["ports"]] == [8080]
    spec = load(EXAMPLE, (*PLACES, *GPUS, FULL, "cluster.kubernetes.monitoring_namespace="))
    assert len(job_objects(spec)[1]["spec"]["ingress"]) == 2


def test_names() -> None:
    assert object_name("digits-clip") == "digits-clip"
    names = {object_name(name) for name in ("a.b", "a_b", "a-b", "x" * 60, "x" * 61)}
    assert len(names) == 5
    assert all(len(name) <= 47 and set(name) <= set("abcdefx0123456789-") for name in names)
    assert re.fullmatch(r"job-3d-clip-[0-9a-f]{8}", object_name("3d-clip")), "a Service's name begins with a letter"
    assert len(object_name("3" * 63)) == 47


def test_a_spec_without_the_section() -> None:
    with pytest.raises(UsageError, match=r"--set cluster\.kubernetes\.image=registry/tandem:tag"):
        job_objects(load(EXAMPLE, PLACES))


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("storage.root=runs", "storage.root: 'runs'"),
        ("data.sources.0.urls=['/database/a.tar']", "data.sources.0.urls: '/database/a.tar'"),
        ("evaluations.0.data.urls=['file:///elsewhere/a.tar']", "evaluations.0.data.urls: 'file:///elsewhere/a.tar'"),
        ("data.sources.0.index=index.parquet", "data.sources.0.index: 'index.parquet'"),
    ],
)
def test_a_folder_that_pods_do_not_share(override: str, place: str) -> None:
    with pytest.raises(UsageError, match="is a folder that pods don't share") as caught:
        job_objects(spec_of(override))
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize("name", ["here/clip", "/database/clip", "./nowhere", "~/clip"])
@pytest.mark.parametrize("place", ["model.image", "data.text.tokenizer"])
def test_a_model_that_pods_do_not_have(place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "clip").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is a folder that pods don't have") as caught:
        job_objects(spec_of(f"{place}={{kind: pretrained, name: '{name}'}}"))
    assert str(caught.value).startswith(f"{place}.name: '{name}'")
    for other in ("openai/clip", "/data/clip"):
        assert job_objects(spec_of(f"{place}={{kind: pretrained, name: '{other}'}}"))


def test_a_run_that_mines_and_that_pods_do_not_have() -> None:
    for model in ("runs/first", "file:///elsewhere/runs/first"):
        mining = Mining(model=model, before_training=True)
        with pytest.raises(UsageError, match=rf"mining.model: '{model}' is a folder that pods don't have"):
            job_objects(spec_of().model_copy(update={"mining": mining}))
    for model in ("first", "s3://bucket/runs/first", "file:///data/runs/first", "bm25"):
        mining = Mining(model=model, before_training=True)
        assert job_objects(spec_of().model_copy(update={"mining": mining}))


def test_faults_of_the_section() -> None:
    for override, message in (
        ("cluster.kubernetes.tolerations.1.operator=Exists", "value goes with operator Equal"),
        ("cluster.kubernetes.shared_memory=100 GiB", "is above the pod's memory"),
        ("cluster.kubernetes.token_secret=s3cr3t TOKEN", "a name of Kubernetes"),
    ):
        with pytest.raises(UsageError, match=message):
            spec_of(override)


def test_the_command_prints_what_kubectl_reads() -> None:
    flags = [part for override in (*PLACES, FULL, *GPUS) for part in ("--set", override)]
    printed = CliRunner().invoke(app, ["render", "kubernetes", str(EXAMPLE), "--kind", "raycluster", *flags])
    assert printed.exit_code == 0, printed.output
    assert list(yaml.safe_load_all(printed.output)) == cluster_objects(spec_of())
