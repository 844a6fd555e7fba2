"""The URIs that a spec names, each with its place: of data, indexes, label files, and of the runs. Pure.

named_uris(spec)                -> ("storage.root", "runs"), ("data.sources.0.urls", "s3://b/{00..41}.tar"), …
with_uris(spec, lambda place, uri: …)    the spec with others in their places
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from jobspecs import evaluation
from jobspecs.job import JobSpec


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
