"""An example of every field: for the schema that editors show, and for the reference page.

A field's default is its example, or the values that it may have. What has neither is written down here; examples of
sections are made of those of their required fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic_core import to_jsonable_python

from jobspecs.base import Section
from jobspecs.fields import is_list, kinds, members, sections_at

_WRITTEN: dict[str, list[Any]] = {
    "JobSpec.name": ["digits-clip"],
    "JobSpec.deepspeed": [{"zero_optimization": {"reduce_bucket_size": 50_000_000}}],
    "Matryoshka.dims": [[256, 128, 64]],
    "Matryoshka.weights": [[1.0, 0.5, 0.25]],
    "_FalseNegatives.margin": [0.1],
    "Source.urls": [["shards/*.tar"], ["s3://bucket/laion/{00000..00041}.tar"]],
    "Source.weight": [2.0],
    "Source.index": ["s3://bucket/laion.index.parquet"],
    "Filter": [{"field": "similarity", "at_least": 0.28}],
    "Filter.field": ["similarity"],
    "Filter.at_least": [0.28],
    "Filter.at_most": [1.0],
    "Filter.one_of": [["en", "de"]],
    "Text.field": ["caption"],
    "Text.prefix": ["query: "],
    "PretrainedTokenizer.name": ["openai/clip-vit-base-patch32"],
    "PretrainedTokenizer.revision": ["main"],
    "Weight.field": ["quality"],
    "Cache.folder": ["/scratch/tandem"],
    "Cache.max_size": ["200GiB"],
    "_Transformer.width": [768],
    "_Transformer.layers": [12],
    "_Transformer.heads": [12],
    "ImageTransformer.patch": [32],
    "ImageConfig.architecture": ["vit"],
    "TextConfig.architecture": ["bert"],
    "_Config.settings": [{"hidden_size": 384, "num_hidden_layers": 6}],
    "ImagePretrained.name": ["openai/clip-vit-base-patch32"],
    "TextPretrained.name": ["sentence-transformers/all-MiniLM-L6-v2"],
    "_Pretrained.revision": ["main"],
    "Training": [{"global_batch": 4096, "passes": 32}],
    "Training.global_batch": [4096],
    "Training.steps": [10_000],
    "Training.passes": [32],
    "Training.samples": ["12.8M"],
    "Training.micro_batch": [256, "auto"],
    "Lamb.learning_rate": [2e-3],
    "Cluster.workers": [8, {"min": 2, "max": 8}],
    "WorkerRange.min": [2],
    "WorkerRange.max": [8],
    "Kubernetes.image": ["registry/tandem:0.1.0-cuda"],
    "Kubernetes.pull_secrets": [["registry"]],
    "Kubernetes.node_selector": [{"cloud.google.com/gke-spot": "true"}],
    "Kubernetes.secrets": [["aws-credentials", "hub-token"]],
    "Kubernetes.service_account": ["trainer"],
    "Kubernetes.token_secret": ["ray-token"],
    "Kubernetes.queue": ["research"],
    "Kubernetes.monitoring_namespace": ["monitoring"],
    "Toleration": [{"key": "nvidia.com/gpu"}],
    "Toleration.key": ["nvidia.com/gpu"],
    "Toleration.value": ["spot"],
    "Claim.claim": ["datasets"],
    "Claim.path": ["/data"],
    "Checkpoint.every_minutes": ["30m"],
    "Checkpoint.keep_every": [5000],
    "KeepBest.evaluation": ["imagenet"],
    "EarlyStop.evaluation": ["imagenet"],
    "EarlyStop.patience": [5],
    "Retry.max_attempts": [20],
    "ZeroShot": [
        {"kind": "zero_shot", "name": "pets", "data": {"urls": ["pets/*.tar"]}, "class_names": ["cat", "dog"]}
    ],
    "_Scored.name": ["imagenet"],
    "_Scored.main": ["acc@1"],
    "Retrieval.main": ["mean_R@1"],
    "Sts.main": ["spearman"],
    "Health.main": ["alignment"],
    "Schedule.every_checkpoints": [2],
    "Schedule.best_only": ["imagenet"],
    "EvaluationData.urls": [["held-out/*.tar"]],
    "ZeroShot.class_names": [["cat", "dog"]],
    "ZeroShot.label_files": [[{"name": "fine", "uri": "fine.json"}]],
    "LabelFile.name": ["fine"],
    "LabelFile.uri": ["fine.json"],
    "LabelFile.templates": [["a photo of a {}"]],
    "LabelFile.label_field": ["fine_label"],
    "TextPlace.field": ["sentence1"],
    "Mining.model": ["runs/digits-clip", "bm25"],
    "Mining.every_steps": [1000],
    "Mining.corpus": [["corpus/*.tar"]],
    "MaxSimilarity.absolute": [0.9],
    "S3.endpoint": ["http://minio:9000"],
    "S3.region": ["eu-west-1"],
    "Mlflow.uri": ["https://mlflow.example", "sqlite:///mlflow.db"],
    "Mlflow.experiment": ["clip"],
    "Wandb.project": ["clip"],
    "Wandb.entity": ["team"],
}
"""By class and field, or by class where a section needs more than its required fields."""


def examples_of(section: type[Section], name: str) -> list[Any]:
    """Examples of a field, as JSON. Raises LookupError where there is none."""
    written = _written(section, f".{name}")
    if written is not None:
        return written
    field = section.model_fields[name]
    literals = [value for member in members(field.annotation) for value in _literals(member)]
    if literals:
        return literals
    default = None if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))
    if default not in (None, [], {}, ""):
        return [default]
    sections = sections_at(field.annotation)
    if not sections:
        raise LookupError(f"{section.__name__}.{name} has no example: write one in {__name__}")
    found = [_example(each) for each in sections]
    return [[example] for example in found] if is_list(field.annotation) else found


def _written(section: type[Section], name: str) -> list[Any] | None:
    keys = (f"{each.__name__}{name}" for each in section.__mro__)
    return next((_WRITTEN[key] for key in keys if key in _WRITTEN), None)


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is list:
        yield from ([value] for value in _literals(get_args(annotation)[0]))


def _example(section: type[Section]) -> Any:
    written = _written(section, "")
    if written is not None:
        return written[0]
    example = {"kind": kinds(section)[0]} if kinds(section) else {}
    required = [name for name, field in section.model_fields.items() if field.is_required() and name != "kind"]
    return example | {name: examples_of(section, name)[0] for name in required}
