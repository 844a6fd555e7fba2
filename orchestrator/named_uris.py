"""The URIs that a spec names, each with its place: of data, indexes, label files, and of the runs; and the models that
it names, by folder or else. Pure.

named_uris(spec)                -> ("storage.root", "runs"), ("data.sources.0.urls", "s3://b/{00..41}.tar"), …
with_uris(spec, lambda place, uri: …)    the spec with others in their places
named_models(spec)              -> ("model.image.name", "models/clip"), ("mining.model", "runs/clip"), …
with_models(spec, lambda place, name: …)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobspecs import evaluation
from jobspecs.columns import PretrainedTokenizer
from jobspecs.job import JobSpec
from jobspecs.mining import BM25
from jobspecs.model import ImagePretrained, TextPretrained


def named_uris(spec: JobSpec) -> list[tuple[str, str]]:
    """Place and URI, as the spec has them: paths and patterns, too."""
    found: list[tuple[str, str]] = []

    def note(place: str, uri: str) -> str:
        found.append((place, uri))
        return uri

    with_uris(spec, note)
    return found


def with_uris(spec: JobSpec, turned: Callable[[str, str], str]) -> JobSpec:
    """`spec` with `turned(place, uri)` for each URI that it names."""

    def all_turned(place: str, uris: Iterable[str]) -> list[str]:
        return [turned(place, uri) for uri in uris]

    def of_evaluation(above: str, each: evaluation.Evaluation) -> evaluation.Evaluation:
        return evaluation.with_uris(each, lambda place, uri: turned(f"{above}.{place}", uri))

    root = turned("storage.root", spec.storage.root)
    sources = [
        source.model_copy(
            update={
                "urls": all_turned(f"{place}.urls", source.urls),
                "index": None if source.index is None else turned(f"{place}.index", source.index),
            }
        )
        for place, source in ((f"data.sources.{number}", source) for number, source in enumerate(spec.data.sources))
    ]
    evaluations = [of_evaluation(f"evaluations.{number}", each) for number, each in enumerate(spec.evaluations)]
    mining = spec.mining
    if mining is not None and mining.corpus is not None:
        mining = mining.model_copy(update={"corpus": all_turned("mining.corpus", mining.corpus)})
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"sources": sources}),
            "evaluations": evaluations,
            "mining": mining,
            "storage": spec.storage.model_copy(update={"root": root}),
        }
    )


def named_models(spec: JobSpec) -> list[tuple[str, str]]:
    """Place and name, as the spec has them: pretrained towers and tokenizers, and the run by which the job mines."""
    found: list[tuple[str, str]] = []

    def note(place: str, name: str) -> str:
        found.append((place, name))
        return name

    with_models(spec, note)
    return found


def with_models(spec: JobSpec, turned: Callable[[str, str], str]) -> JobSpec:
    """`spec` with `turned(place, name)` for each model that it names."""
    towers = {
        name: tower.model_copy(update={"name": turned(f"model.{name}.name", tower.name)})
        for name, tower in spec.model.towers().items()
        if isinstance(tower, ImagePretrained | TextPretrained)
    }
    texts = {}
    for name, text in spec.data.texts.items():
        if isinstance(text.tokenizer, PretrainedTokenizer):
            of_text = turned(f"data.{name}.tokenizer.name", text.tokenizer.name)
            texts[name] = text.model_copy(update={"tokenizer": text.tokenizer.model_copy(update={"name": of_text})})
    mining = spec.mining
    if spec.job_mining is not None and spec.job_mining.model not in (None, BM25):
        named = turned("mining.model", str(spec.job_mining.model))
        mining = spec.job_mining.model_copy(update={"model": named})
    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update=towers),
            "data": spec.data.model_copy(update=texts),
            "mining": mining,
        }
    )
