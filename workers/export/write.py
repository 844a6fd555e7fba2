"""The export as a folder: at once, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from jobspecs.errors import StorageError, UsageError
from workers.export import safetensors_format, sentence_transformers_format, transformers_format
from workers.export.card import model_card
from workers.export.source import Source
from workers.storage.uris import temporary_name

FORMATS: dict[str, Callable[[Source, Path], str]] = {
    "transformers": transformers_format.write,
    "sentence-transformers": sentence_transformers_format.write,
    "safetensors": safetensors_format.write,
}
"""format -> f(source, folder): writes all but the model card, and returns the Python that loads it."""


def check_folder(folder: Path) -> None:
    """Raises UsageError where something stands at `folder` already that an export would mix with."""
    if ":/" in str(folder):  # what a Path leaves of ://
        raise UsageError(f"{folder}: an export is a local folder. Name one, and copy it where you want it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already, and not empty. Name another folder, or remove it")


def export(source: Source, format_: str, folder: Path) -> None:
    """Writes `folder`, in one of FORMATS. It appears whole, when it is: before that it has another name beside it.

    Raises UsageError: the folder holds something, or the format can't hold the model; StorageError.
    """
    check_folder(folder)
    temporary = folder.absolute().parent / temporary_name()
    try:
        temporary.mkdir(parents=True)
        usage = FORMATS[format_](source, temporary)
        (temporary / "README.md").write_text(model_card(source, format_, usage), encoding="utf-8")
        os.replace(temporary, folder)  # an empty folder is replaced, another one is not
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}. Name another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
