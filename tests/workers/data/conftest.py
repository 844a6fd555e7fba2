"""The mixture of two sources that the loader's tests read, and its global batches."""

from __future__ import annotations

import pytest

from tests.workers.data.mixture import global_batches, write_mixture
from workers.data.index import Index
from workers.data.loader import RankBatch


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, ...]:
    """Its indexes; the shards lie on disk."""
    return write_mixture(tmp_path_factory.mktemp("mixture"))


@pytest.fixture(scope="session")
def expected(mixture: tuple[Index, ...]) -> list[RankBatch]:
    """The global batches that one rank with one loader process makes of it."""
    return global_batches(mixture)
