"""Run directories as drivers and ranks leave them, with words in them that would like to be markup."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from jobspecs.job import JobSpec
from jobspecs.load import loads
from jobspecs.storage import S3
from orchestrator.ledger import Ledger
from tests.workers.checkpoints import write_untrained_run
from tests.workers.tiny_job import SPEC, index_of, scans
from workers.data.index_file import to_parquet
from workers.data.negatives import NegativesTable, TableFile, content_hash
from workers.data.negatives import to_parquet as to_negatives
from workers.data.tokenize import byte_tokenizer
from workers.run import PartsWriter, RunDirectory
from workers.storage import Storage

HOSTILE = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>\"&amp;"
"""A caption that must stay text. 83 bytes."""
BEGAN = 1_800_000_000.0

PAIRS = """
apiVersion: tandem/v1
name: pairs
objective: {kind: text_text}
data:
  sources:
    - {name: pairs, urls: ["%s/*.tar"]}
  query: {context_length: 32}
  document: {context_length: 32}
  negatives: {count: 2}
  lanes: 4
model:
  text: {kind: transformer, width: 32, layers: 1, heads: 2}
  embedding_dim: 16
training:
  global_batch: 8
  steps: 7
  precision: fp32
  optimizer: {kind: adamw, learning_rate: 1e-3}
  schedule: {kind: cosine, warmup_steps: 2}
"""

VIEWS = """
apiVersion: tandem/v1
name: views
objective: {kind: two_view, loss: {kind: ntxent}, logit_scale: {init: 10, learnable: false}}
data:
  sources:
    - {name: digits, urls: ["%s/*.tar"]}
  image: {column: jpg, size: 32, views: 2, crop_scale: [0.5, 1.0]}
  lanes: 4
model:
  image: {kind: transformer, width: 32, layers: 1, heads: 2, patch: 8}
  embedding_dim: 16
training:
  global_batch: 8
  steps: 7
  precision: fp32
  optimizer: {kind: adamw, learning_rate: 1e-3}
  schedule: {kind: cosine, warmup_steps: 2}
"""


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    """Members by extension of the samples 0, 1, …."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, members in enumerate(samples):
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def digits(count: int) -> list[dict[str, bytes]]:
    """Scans with captions, of which the second is HOSTILE."""
    captions = [sample.caption for sample in scans()[:count]]
    captions[1] = HOSTILE
    return [
        {"jpg": sample.jpeg, "txt": caption.encode()} for sample, caption in zip(scans()[:count], captions, strict=True)
    ]


def write_images_run(folder: Path, name: str = "told") -> Ledger:
    """A run of images and captions: three attempts, of which the first failed and the second was preempted, and an
    evaluation of two checkpoints. Its model was never trained."""
    data = folder / "data"
    if not data.exists():
        write_tar(data / "0.tar", digits(24))
    spec = loads(SPEC % data)
    ledger = _write(folder / name, spec, ("text",))
    storage, run = ledger.storage, ledger.run
    _write_indexes(ledger)
    for attempt, steps in ((1, (1, 2, 3, 4)), (2, (4, 5)), (3, (6, 7))):
        metrics(ledger, attempt, *steps)
    bad = PartsWriter(storage, run.bad_samples, "a00001-r00000-")
    bad.append({"step": 2, "uri": f"file://{HOSTILE}.tar", "place": 7, "key": HOSTILE, "cause": "undecodable"})
    bad.flush()
    for number, (kind, fields) in enumerate(EVENTS):
        ledger.append(kind, f"{kind} {HOSTILE}", **fields)["time"] = BEGAN + number * 10
    ledger.flush()
    for step, value in ((3, 0.2), (7, 0.6)):
        storage.write(run.evaluation(step, "similar"), json.dumps(result(step, value)).encode())
    return ledger


def write_two_view_run(folder: Path) -> Ledger:
    """A run of images alone."""
    write_tar(folder / "data" / "0.tar", digits(24))
    return _write(folder / "views", loads(VIEWS % (folder / "data")), ())


def write_pairs_run(folder: Path, more: str = "") -> Ledger:
    """A run of queries and documents with hard negatives. more: lines of its spec."""
    samples = [
        {
            "query.txt": f"question {number}".encode(),
            "document.txt": f"answer {number}".encode(),
            "negatives.json": json.dumps([f"answer {number + 1}", f"no answer {number}"]).encode(),
        }
        for number in range(9)
    ]
    del samples[4]["negatives.json"]
    write_tar(folder / "pairs" / "0.tar", samples)
    ledger = _write(folder / "pairs-run", loads(PAIRS % (folder / "pairs") + more), ("query", "document"))
    _write_indexes(ledger)
    return ledger


def write_version(ledger: Ledger, version: int, negatives: dict[int, list[str]]) -> None:
    """A version of mined negatives of the only shard."""
    uri = ledger.run.negatives(version)
    files = {"pairs": (TableFile("pairs/00000.parquet", content_hash(negatives)),)}
    ledger.storage.write(f"{uri}/pairs/00000.parquet", to_negatives(negatives))
    ledger.storage.write(f"{uri}/manifest.json", NegativesTable(uri, version, files).to_json())


def _write_indexes(ledger: Ledger) -> None:
    spec = loads(ledger.storage.read(ledger.run.spec).decode())
    for index in index_of(spec, ledger.storage):
        ledger.storage.write(ledger.run.index(index.source), to_parquet(index))


def _write(folder: Path, spec: JobSpec, columns: tuple[str, ...]) -> Ledger:
    run = RunDirectory(f"file://{folder}")
    write_untrained_run(spec, run, dict.fromkeys(columns, byte_tokenizer()))
    return Ledger(Storage(S3()), run)


EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("run_started", {}),
    ("attempt_started", {"attempt": 1, "step": 0, "world_size": 2}),
    ("checkpoint_committed", {"attempt": 1, "step": 3}),
    ("attempt_failed", {"attempt": 1, "step": 4, "kind": "bug", "cause": HOSTILE}),
    ("attempt_started", {"attempt": 2, "step": 3, "world_size": 1}),
    ("attempt_ended", {"attempt": 2, "step": 5, "reason": "preempted"}),
    ("attempt_started", {"attempt": 3, "step": 5, "world_size": 2}),
    ("evaluation_started", {"evaluation": "similar", "step": 3}),
    ("evaluation_finished", {"evaluation": "similar", "step": 3}),
    ("training_finished", {"step": 7}),
    ("run_succeeded", {}),
)
"""Ten seconds apart from BEGAN on."""


def metrics(ledger: Ledger, attempt: int, *steps: int) -> None:
    """What rank 0 of an attempt writes of those steps: 8 samples in 2 s, 0.5 of them waited; health at even ones."""
    writer = PartsWriter(ledger.storage, ledger.run.metrics, f"a{attempt:05d}-")
    for step in steps:
        writer.append(
            {
                "step": step,
                "attempt": attempt,
                "time": BEGAN + 20 * attempt + 2 * step,
                "loss": None if step == 5 else 3 - step / 10,
                "logit_scale": 14.0,
                "learning_rate": 1e-3,
                "grad_norm": 1.0,
                "samples_per_second": 4.0,
                "data_wait_fraction": 0.25,
                "phase_seconds": {
                    "data": 0.5,
                    "forward": 0.5,
                    "gather": 0.25,
                    "backward": 0.5,
                    "update": 0.25,
                    "save": 1,
                },
                "health": None if step % 2 else health(step),
            }
        )
    writer.flush()


def health(step: int) -> dict[str, Any]:
    sides = {"image": 2.0 + step, "text": 3.0 + step}
    return {
        "accuracy": step / 10,
        "alignment": 1.0,
        "uniformity": {side: -value for side, value in sides.items()},
        "effective_rank": sides,
        "mean_cosine": {side: 1 / value for side, value in sides.items()},
        "loss_floor": None,
    }


def result(step: int, value: float) -> dict[str, Any]:
    """As `workers.evaluate.result.Result` is stored."""
    return {
        "evaluation": "similar",
        "kind": "health",
        "step": step,
        "main": "similarity",
        "scores": {"similarity": value, HOSTILE: 0.5},
        "samples": 24,
        "skipped": 0,
        "chance": 0.1,
        "interval": [value - 0.05, value + 0.05],
        "histograms": {"bins": 4, "shares": {"positives": [0, 0, 0.5, 0.5], "negatives": [0.25] * 4}},
    }
