"""`tandem export`: a checkpoint, with what its run knows of it, as a folder for other libraries."""

from __future__ import annotations

from pathlib import Path

from orchestrator.find_checkpoint import FoundCheckpoint
from orchestrator.ledger import Ledger


def export_model(found: FoundCheckpoint, format_: str, folder: Path) -> None:
    """Raises UsageError: the folder holds something, or the format can't hold the model; CheckpointError, DataError,
    StorageError."""
    from transformers.utils import logging

    # torch.
    from workers.export.source import Source
    from workers.export.write import check_folder, export

    check_folder(folder)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # that it has no torchvision changes nothing here
    results = Ledger(found.storage, found.run).results()
    scores = tuple(result for result in results if result.get("step") == found.manifest.step)
    export(Source.of_checkpoint(found.spec, found.run, found.uri, found.storage, scores), format_, folder)
