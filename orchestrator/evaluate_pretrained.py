"""`tandem eval` of a model of someone else: columns, data and evaluations are a spec's, all else is the model's own.

models/all-MiniLM-L6-v2                   a folder of transformers or sentence-transformers
openai/clip-vit-base-patch32              a name on the hub, of its newest commit
openai/clip-vit-base-patch32@3d74acf      of another one, or of a tag
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from jobspecs.errors import UsageError
from jobspecs.evaluation import sides_of
from jobspecs.job import JobSpec
from jobspecs.load import load
from jobspecs.storage import S3
from orchestrator.absolute_uris import absolute_uris
from orchestrator.evaluate_alone import named, scored
from workers.storage import Storage, absolute

_HUB = re.compile(r"([\w.-]+)/([\w.-]+?)(?:@([\w./-]+))?")


def is_pretrained(argument: str) -> bool:
    """Whether an argument names a model of another library, and no run: a folder of theirs, or `owner/name` where
    there is no folder `owner` here."""
    folder = os.path.expanduser(argument)
    if os.path.isdir(folder):
        from workers.pretrained.load import is_model_folder  # torch

        return is_model_folder(folder)
    match = _HUB.fullmatch(argument)
    return match is not None and not match[1].startswith(".") and not os.path.exists(match[1])


def evaluate_pretrained(
    argument: str,
    spec: Path | None,
    only: Collection[str],
    tell: Callable[[str], None],
    *,
    raw: bool = False,
    s3: S3 | None = None,
) -> list[dict[str, Any]]:
    """Results of the evaluations of `spec` that `only` names, or of all of them, as `evaluate_alone` has them; their
    step is 0, as Tandem did not train the model.

    Raises SpecError; UsageError: no spec, a name that there is none of, or what the model can't do; StorageError.
    """
    if spec is None:
        raise UsageError(
            f"{argument} is a model of another library, and no spec says what to score it on. Add --spec FILE: its "
            "data, evaluations and columns are taken, its model is not"
        )
    if raw:
        raise UsageError(f"--raw: {argument} is a model of another library, and has one set of weights. Leave it out")
    job = _with_s3(absolute_uris(load(spec, ())), s3)
    evaluations = named(job.evaluations, only)
    if not evaluations:
        raise UsageError(f"{spec} has no evaluations. Name a spec with a section evaluations:")

    # torch.
    from transformers.utils import logging

    from workers.evaluate.encode import Encoder
    from workers.pretrained.load import load_pretrained

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it says of what it leaves out changes nothing here
    sides = dict.fromkeys(side for evaluation in evaluations for side in sides_of(evaluation, job.data))
    is_folder = os.path.isdir(os.path.expanduser(argument))
    name, _, revision = (argument, "", "") if is_folder else argument.partition("@")
    pretrained = load_pretrained(name, job.data, tuple(sides), revision or None)
    tell(f"{argument}: {pretrained}")
    storage = Storage(job.storage.s3, read_ahead=job.data.loader.read_ahead)
    encoder = Encoder(pretrained.data, storage, pretrained.tokenizers, pretrained.model, view=pretrained.images)
    uri = absolute(os.path.expanduser(argument)) if is_folder else f"hf://{argument}"
    return scored(evaluations, encoder, 0, uri, tell)


def _with_s3(spec: JobSpec, s3: S3 | None) -> JobSpec:
    return spec if s3 is None else spec.model_copy(update={"storage": spec.storage.model_copy(update={"s3": s3})})
