"""The collectives of each loss, forward and backward, and their bytes; on two ranks and on four.

torch.distributed's functions are listened to. What is expected is written here as a table, and the count that the
losses keep of themselves is held to it too.
Letters: N ranks, m rows a rank, B = N·m, d width, H kinds of keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tests.ranks import run_ranks
from workers.losses import gather
from workers.losses.infonce import infonce
from workers.losses.ntxent import ntxent
from workers.losses.pairs import gather_pairs
from workers.losses.rule import Prefixes, Rule
from workers.losses.siglip import siglip

M, D, H = 6, 16, 2
FP16 = torch.float16
QUERIES = Rule(0.0, 1.0)

Call = tuple[str, int]
"""Which collective, and the bytes of the whole (of all ranks' rows together, or of what is reduced)."""


class Listening:
    """All collectives of this rank, while it is entered. Those that no loss may use fail."""

    FORBIDDEN = (
        "all_gather",
        "all_gather_object",
        "all_to_all",
        "broadcast",
        "gather",
        "reduce",
        "reduce_scatter",
        "scatter",
        "send",
        "recv",
        "isend",
        "irecv",
        "barrier",
    )

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Listening:
        self._listen(gather, "_all_gather", lambda whole, *_: ("gather", whole.nbytes))
        # On gloo, whose own reduce-scatter carries twice the bytes.
        self._listen(dist, "all_to_all_single", lambda parts, whole: ("scatter", whole.nbytes))
        self._listen(dist, "all_reduce", lambda whole: ("reduce", whole.nbytes))
        for name in self.FORBIDDEN:
            self._patch.setattr(dist, name, functools.partial(self._forbidden, name))
        return self

    def __exit__(self, *error: object) -> None:
        self._patch.undo()

    def _listen(self, module: Any, name: str, told: Callable[..., Call]) -> None:
        function = getattr(module, name)

        def listened(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(told(*args))
            return function(*args, **kwargs)

        self._patch.setattr(module, name, listened)

    @staticmethod
    def _forbidden(name: str, *args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"{name} is no collective of the losses")


def _features(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(dist.get_rank())
    return F.normalize(torch.randn(n, D, generator=generator), dim=-1).requires_grad_()


def _infonce(rule: Rule = Rule(), K: int = 0, frozen: bool = False, scale: float = 10.0, **more: Any) -> Tensor:  # noqa: B008
    A, T = _features(M * (1 + K)), _features(M).detach().requires_grad_(not frozen)
    fixed = more.pop("fixed", False)
    pairs = gather_pairs(torch.ones(M, dtype=torch.bool), negatives_valid=torch.ones(M * K, dtype=torch.bool))
    return infonce(A, T, torch.tensor(scale, requires_grad=not fixed), rule=rule, pairs=pairs, **more)


def _ntxent(rule: Rule = Rule(), scale: float = 10.0, **more: Any) -> Tensor:  # noqa: B008
    return ntxent(_features(M).unflatten(0, (-1, 2)), torch.tensor(scale, requires_grad=True), rule=rule, **more)


def _siglip(**more: Any) -> Tensor:
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
    return siglip(_features(M), _features(M), scale, bias, **more)


def table(B: int) -> dict[str, tuple[Callable[[], Tensor], list[Call], list[Call]]]:
    """name -> loss, its collectives forward (without those that gather validity and weights) and backward."""
    features, features_16 = ("gather", 4 * B * D), ("gather", 2 * B * D)
    back, back_16 = ("scatter", 4 * B * D), ("scatter", 2 * B * D)
    positives, one = ("gather", 4 * B), ("reduce", 4)

    def sums(numbers: int) -> Call:
        return ("reduce", 4 * B * numbers)

    two = [features, positives, sums(1)]
    hard = Rule(hardness=1.0)
    return {
        "infonce": (_infonce, two, [one, back]),
        "infonce in fp16": (lambda: _infonce(wire=FP16), [features_16, positives, sums(1)], [one, back_16]),
        "infonce, maxima subtracted": (lambda: _infonce(scale=80.0), [*two[:2], sums(1), sums(1)], [one, back]),
        "infonce, smoothing": (
            lambda: _infonce(Rule(label_smoothing=0.1)),
            [*two[:2], sums(3)],
            [one, back],
        ),
        "infonce, hardness": (lambda: _infonce(hard), [*two[:2], sums(4)], [one, back]),
        "infonce, hardness, maxima": (lambda: _infonce(hard, scale=50.0), [*two[:2], sums(2), sums(4)], [one, back]),
        "infonce, margin": (lambda: _infonce(Rule(margin=0.1)), two, [one, back]),
        "infonce to travelling": (lambda: _infonce(Rule(1.0, 0.0)), [features], [one, back]),
        "infonce to resident": (lambda: _infonce(QUERIES), two, [one, back]),
        "infonce, travelling side frozen": (lambda: _infonce(frozen=True), two, [one]),
        "infonce, fixed scale": (lambda: _infonce(fixed=True), two, [back]),
        "infonce, fixed scale, frozen": (lambda: _infonce(fixed=True, frozen=True), two, []),
        "7 hard negatives stay": (lambda: _infonce(QUERIES, K=7), two, [one, back]),
        "infonce, two prefixes": (
            lambda: _infonce(prefixes=Prefixes((2, 4), (1.0, 1.0))),
            [*two, *two[1:], *two[1:]],
            [one, one, one, back],
        ),
        "ntxent": (_ntxent, [features, ("gather", 4 * B * 5)], [one]),
        "ntxent in fp16": (lambda: _ntxent(wire=FP16), [features_16, ("gather", 4 * B * 5)], [one]),
        "ntxent, maxima subtracted": (lambda: _ntxent(scale=80.0), [features, ("gather", 4 * B * 5)], [one]),
        "ntxent, hardness": (lambda: _ntxent(hard), [features, ("gather", 4 * B * 6)], [one]),
        "ntxent, margin": (lambda: _ntxent(Rule(margin=0.1)), [features, positives, ("gather", 4 * B * 5)], [one]),
        "siglip": (_siglip, [features], [("reduce", 8), back]),
        "siglip in fp16": (lambda: _siglip(wire=FP16), [features_16], [("reduce", 8), back_16]),
        "siglip, margin": (lambda: _siglip(margin=0.1), [features, positives], [("reduce", 8), back]),
    }


def on_rank() -> dict[str, tuple[list[Call], list[Call], int, int]]:
    """name -> collectives forward and backward; calls and received bytes as the losses count them."""
    found = {}
    for name, (loss, _, _) in table(M * dist.get_world_size()).items():
        gather.traffic.take()
        with Listening() as forward:
            value = loss()
        with Listening() as backward:
            value.backward()
        counted = gather.traffic.take()
        found[name] = forward.calls, backward.calls, counted.calls, counted.received_bytes
    with Listening() as identities:
        valid, keys = torch.ones(M, dtype=torch.bool), torch.ones(M, H, dtype=torch.int64)
        gather_pairs(valid, keys=keys, negative_keys=keys, negatives_valid=valid)
    found["identities"] = identities.calls, [], 0, 0
    return found


@functools.cache
def outcomes(N: int) -> list[dict[str, tuple[list[Call], list[Call], int, int]]]:
    """[rank]"""
    return run_ranks(on_rank, N)


@pytest.mark.parametrize("N", [2, 4])
@pytest.mark.parametrize("name", table(M))
def test_collectives_and_their_bytes(N: int, name: str) -> None:
    B = M * N
    _, forward, backward = table(B)[name]
    known = [("gather", B), ("gather", 4 * B)]  # validity, weights
    for result in outcomes(N):
        found_forward, found_backward, calls, received = result[name]
        assert sorted(found_forward) == sorted(known + forward)
        assert sorted(found_backward) == sorted(backward)
        everything = known + forward + backward
        assert calls == len(everything)
        rounds = {"gather": 1, "scatter": 1, "reduce": 2}
        assert received == sum(rounds[kind] * nbytes * (N - 1) // N for kind, nbytes in everything)


@pytest.mark.parametrize("N", [2, 4])
def test_keys_travel_as_8_bytes_each(N: int) -> None:
    B = M * N
    for result in outcomes(N):
        assert sorted(result["identities"][0]) == sorted([("gather", B), ("gather", 4 * B), ("gather", 8 * B * H)])


def test_one_process_sends_nothing() -> None:
    gather.traffic.take()
    A, T = (F.normalize(torch.randn(M, D), dim=-1).requires_grad_() for _ in range(2))
    with Listening() as listening:
        infonce(A, T, torch.tensor(10.0, requires_grad=True)).backward()
    assert listening.calls == []
    assert gather.traffic.take() == gather.Traffic()
