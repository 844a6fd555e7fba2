"""Every ZeRO stage, number of ranks and precision goes on from the checkpoint of every other.

Each of the 32 configurations saves once and loads the checkpoint of one other: all pairs of stages (in either
precision), of rank counts, and of precisions are among them. `TANDEM_FULL_MATRIX=1` loads all 32 with all 32.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist

import workers.train.host_copy
from tests.ranks import run_ranks
from tests.waiting import until
from tests.workers.train.saving import save, tensors
from tests.workers.train.tiny import engine, on_engine, whole_state
from workers.storage import Storage
from workers.train.checkpoint import load

SAVED_AT, NEXT = 2, range(2, 7)


class Configuration(NamedTuple):
    stage: int
    ranks: int
    precision: str


STAGES, RANKS, PRECISIONS = range(4), range(1, 5), ("fp32", "bf16")
ALL = [Configuration(*of) for of in itertools.product(STAGES, RANKS, PRECISIONS)]


def sources(of: Configuration) -> list[Configuration]:
    """Whose checkpoint it loads."""
    if os.environ.get("TANDEM_FULL_MATRIX"):
        return ALL
    number = PRECISIONS.index(of.precision)
    ranks = (of.ranks - 1 + of.stage + number) % 4 + 1
    return [Configuration((of.stage + of.ranks + number) % 4, ranks, PRECISIONS[(number + of.stage + of.ranks) % 2])]


def test_all_pairs_are_among_those_that_are_tried() -> None:
    tried = [(of, source) for of in ALL for source in sources(of)]
    assert {(a.stage, b.stage, a.precision) for a, b in tried} == set(itertools.product(STAGES, STAGES, PRECISIONS))
    assert {(a.ranks, b.ranks) for a, b in tried} == set(itertools.product(RANKS, RANKS))
    assert {(a.precision, b.precision) for a, b in tried} == set(itertools.product(PRECISIONS, PRECISIONS))


class Gone(NamedTuple):
    """The losses of NEXT: uninterrupted, and after each checkpoint; and which states were not as in the files."""

    uninterrupted: list[float]
    resumed: dict[Configuration, list[float]]
    unequal: list[Configuration]


def _folder(root: Path, of: Configuration) -> Path:
    return root / f"zero{of.stage}-{of.ranks}-{of.precision}"


def _save_and_load(root: Path) -> dict[Configuration, Gone]:
    workers.train.host_copy.FILE_BYTES = 1000  # several files a rank
    own = [of for of in ALL if of.ranks == dist.get_world_size()]
    engines = {of: engine(of.stage, of.precision) for of in own}
    gone = {}
    for of, one in engines.items():
        on_engine(one, range(SAVED_AT))
        save(f"file://{_folder(root, of)}", one, SAVED_AT)
        gone[of] = Gone(on_engine(one, NEXT).losses, {}, [])
    for of, one in engines.items():
        for source in sources(of):
            checkpoint = _folder(root, source) / f"checkpoints/step-{SAVED_AT:08d}"
            until((checkpoint / "manifest.json").exists, f"the save of {source}")
            assert load(Storage(), f"file://{checkpoint}", one).world_size == source.ranks
            state = whole_state(one)
            saved = tensors(checkpoint, "model") | tensors(checkpoint, "optimizer")
            if state.keys() != saved.keys() or not all(torch.equal(state[name], saved[name]) for name in saved):
                gone[of].unequal.append(source)
            gone[of].resumed[source] = on_engine(one, NEXT).losses
    return gone


@pytest.fixture(scope="module")
def gone() -> Iterator[dict[Configuration, Gone]]:
    """Four groups at once, of 1 to 4 ranks: they import the same, and wait for each other's checkpoints."""
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(len(RANKS)) as pool:
        groups = pool.map(lambda ranks: run_ranks(_save_and_load, ranks, Path(root), timeout_seconds=900), RANKS)
        yield {of: found for results in groups for of, found in results[0].items()}


def test_goes_on_as_if_never_interrupted(gone: dict[Configuration, Gone]) -> None:
    """In fp32 the losses are equal within 1e-5 of their size; where either side has bf16, within its 8 bits."""
    pairs = 0
    for of, found in gone.items():
        for source, losses in found.resumed.items():
            exact = of.precision == source.precision == "fp32"
            expected = gone[source].uninterrupted
            assert losses == pytest.approx(expected, rel=1e-5 if exact else 2e-2), f"{source} -> {of}"
            pairs += 1
    assert pairs == sum(len(sources(of)) for of in ALL)


def test_what_is_loaded_is_what_is_in_the_files(gone: dict[Configuration, Gone]) -> None:
    assert [(source, of) for of, found in gone.items() for source in found.unequal] == []
