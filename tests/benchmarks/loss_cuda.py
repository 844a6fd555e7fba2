"""Tandem's loss on one GPU against its bare matrix products. Called by `loss.py` where torch has CUDA.

Forward and backward pass over features of width 768 in bf16 need four products of B·B·d: the scores, the scores
again in backward, and one for the gradient of either side, 8·B²·d floating-point operations in all. The same
products, in bf16 and in square tiles whose results are dropped, are the bound that the loss is measured against.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from tests.benchmarks.gpu import peak, reset_peak
from tests.benchmarks.loss_contestants import random_features, tandem_infonce

_BATCHES = (65_536, 262_144)
_D = 768
_REPETITIONS = 5
_TILE = 8192


def measure_cuda(
    batches: tuple[int, ...] = _BATCHES, d: int = _D, repetitions: int = _REPETITIONS, device: str = "cuda"
) -> list[str]:
    """Lines to print. Any device will do for a test."""
    lines = [f"on {torch.cuda.get_device_name() if device == 'cuda' else device}, one rank, d = {d}, bf16 features:"]
    for batch in batches:
        features = random_features(batch, d, 0, seed=0)
        features = replace(
            features,
            first=features.first.detach().to(device, torch.bfloat16).requires_grad_(),
            second=features.second.detach().to(device, torch.bfloat16).requires_grad_(),
            scale=features.scale.detach().to(device).requires_grad_(),
        )
        first, second = features.first.detach(), features.second.detach()[:, 0]
        seconds: dict[str, list[float]] = {"loss": [], "products": []}
        most = 0
        for repetition in range(repetitions + 1):
            features.first.grad = features.second.grad = features.scale.grad = None
            before = reset_peak(device)
            took = _timed(lambda given=features: tandem_infonce(given), device)  # type: ignore[misc]
            most = peak(device) - before
            bare = _timed(lambda A=first, G=second: bare_products(A, G), device)  # type: ignore[misc]
            if repetition:  # the first one warms up
                seconds["loss"].append(took)
                seconds["products"].append(bare)
        loss, products = (statistics.median(seconds[name]) for name in ("loss", "products"))
        lines.append(
            f"B = {batch:,}: {loss * 1e3:,.1f} ms, its products alone {products * 1e3:,.1f} ms "
            f"({8 * batch * batch * d / products / 1e12:,.0f} TFLOP/s), {loss / products:.2f} times as long; "
            f"peak memory {most / 2**20:,.0f} MiB above the features"
        )
    return lines


def bare_products(A: Tensor, G: Tensor) -> None:
    """A, G: (B, d). The four products of each tile, with scores in place of their gradient."""
    for a in A.split(_TILE):
        for g in G.split(_TILE):
            torch.mm(a, g.T)
            S = torch.mm(a, g.T)
            torch.mm(S, g)
            torch.mm(S.T, a)


def _timed(run: Callable[[], object], device: str) -> float:
    _synchronize(device)
    began = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
