"""Exact search against FAISS's `IndexFlatIP`: `make bench-search`.

    tandem   workers.evaluate.search.top_k
    faiss    IndexFlatIP.search, from PyPI (its own BLAS); the index is filled before

1,000,000 candidates and 10,000 queries of width 512, unit rows drawn at random, k 100, both on two threads. The peers
take turns and begin with another one each round; `--queries 1000 --candidates 100000` is a hundredth of the work.
Other work on the machine lengthens a round by the clock at random, so processor time is shown beside it; what disturbs
a round only ever makes it longer, so the ratio is that of the fastest rounds by the clock, FAISS's over Tandem's. The
rounds also check that both find the same. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import machine
from workers.evaluate.search import top_k

AIMS = {"faiss": round(1 / 1.2, 3)}


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    candidates: int
    queries: int
    width: int
    k: int
    threads: int
    rounds: int


@dataclass(frozen=True)
class Round:
    """One search of one contestant."""

    seconds: float
    processor_seconds: float


Found = tuple[NDArray[np.float32], NDArray[np.int64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = measure(Plan(**vars(parser.parse_args())))
    table = Table()
    for heading in ("search", "fastest, s", "processor, s"):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    for name, of_name in rounds.items():
        row = (min(each.seconds for each in of_name), min(each.processor_seconds for each in of_name))
        table.add_row(name, *(f"{seconds:.2f}" for seconds in row))
    Console(width=88).print(table)
    print(json.dumps(summary(rounds)))


def measure(plan: Plan) -> dict[str, list[Round]]:
    """The rounds of each contestant. Raises AssertionError where they find other candidates, but for ties."""
    torch.set_num_threads(plan.threads)
    faiss.omp_set_num_threads(plan.threads)
    candidates, queries = unit_rows(plan.candidates, plan.width, 0), unit_rows(plan.queries, plan.width, 1)
    contestants = searches(candidates, queries, plan.k)
    rounds: dict[str, list[Round]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(plan.rounds):
        found = {}
        for name in names[number % 2 :] + names[: number % 2]:
            began, worked = time.perf_counter(), time.process_time()
            found[name] = contestants[name]()
            rounds[name].append(Round(time.perf_counter() - began, time.process_time() - worked))
        (scores, indexes), (other_scores, others) = found["tandem"], found["faiss"]
        assert np.allclose(scores, other_scores, atol=1e-5)
        assert (indexes == others).mean() > 0.99  # scores that differ by rounding change places
    return rounds


def searches(candidates: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> dict[str, Callable[[], Found]]:
    """The contestants."""
    index: Any = faiss.IndexFlatIP(candidates.shape[1])
    index.add(candidates)

    def tandem() -> Found:
        found = top_k(queries, candidates, k)
        return found.scores, found.indexes

    return {"tandem": tandem, "faiss": lambda: index.search(queries, k)}


def unit_rows(rows: int, width: int, seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


def summary(rounds: dict[str, list[Round]]) -> dict[str, object]:
    """The JSON line."""
    fastest = {name: min(each.seconds for each in of_name) for name, of_name in rounds.items()}
    return {
        "benchmark": "search",
        "ratios": {"faiss": round(fastest["faiss"] / fastest["tandem"], 3)},
        "aims": AIMS,
        "machine": machine(),
    }


if __name__ == "__main__":
    main()
