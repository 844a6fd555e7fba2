"""No loss holds the matrix of similarities, and each does the work that it says.

Letters: R resident rows, C travelling rows, c columns of a tile, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import workers.losses.contrast
import workers.losses.tiles
from workers.losses.infonce import infonce
from workers.losses.memory import loss_bytes
from workers.losses.ntxent import ntxent
from workers.losses.pairs import gather_pairs
from workers.losses.rule import NTXENT, Prefixes, Rule
from workers.losses.siglip import siglip

FP64 = 8
ALL = {"label_smoothing": 0.1, "hardness": 0.5, "margin": 0.1}


class Watch(TorchDispatchMode):
    """What operations make and multiply, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        """Numbers in the largest tensor."""
        self.peak = 0
        """Most bytes alive at a time."""
        self.products = 0
        """Multiplications of matrix products."""
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
                storage = StorageWeakRef(tensor.untyped_storage())
                self._alive[storage.cdata] = (storage, tensor.untyped_storage().nbytes())
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self._alive.values()))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm_"):
            one, other = args[-2:]
            self.products += one.shape[0] * one.shape[1] * other.shape[1]
        else:
            assert not any(part in name for part in ("mm", "matmul", "linear", "einsum")), f"{name} is not counted"
        return made


def _ones(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.bool)


def _infonce(n: int, d: int, K: int = 0, frozen: bool = False, **rule: Any) -> Callable[[], Tensor]:
    A, T = F.normalize(torch.randn(n * (1 + K), d, dtype=torch.float64), dim=-1), torch.randn(n, d, dtype=torch.float64)
    A, T = A.requires_grad_(), F.normalize(T, dim=-1).requires_grad_(not frozen)
    keys, negative_keys = torch.arange(n)[:, None] // 2, torch.arange(n * K)[:, None]
    valid = _ones(n) & (torch.arange(n) % 5 > 0)
    pairs = gather_pairs(valid, keys=keys, negatives_valid=_ones(n * K), negative_keys=negative_keys)
    scale = torch.tensor(10.0, requires_grad=True)
    return lambda: infonce(A, T, scale, rule=Rule(**rule), pairs=pairs)


def _ntxent(n: int, d: int, **rule: Any) -> Callable[[], Tensor]:
    Z = F.normalize(torch.randn(n // 2, 2, d, dtype=torch.float64), dim=-1).requires_grad_()
    scale = torch.tensor(10.0, requires_grad=True)
    return lambda: ntxent(Z, scale, rule=Rule(**rule))


def _siglip(n: int, d: int, frozen: bool = False, **options: Any) -> Callable[[], Tensor]:
    A, T = F.normalize(torch.randn(2, n, d, dtype=torch.float64), dim=-1)
    A, T = A.clone().requires_grad_(), T.clone().requires_grad_(not frozen)
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
    return lambda: siglip(A, T, scale, bias, **options)


LOSSES: dict[str, Callable[[int, int], Callable[[], Tensor]]] = {
    "infonce": lambda n, d: _infonce(n, d),
    "infonce, one direction": lambda n, d: _infonce(n, d, to_travelling=1.0, to_resident=0.0),
    "infonce, hard negatives": lambda n, d: _infonce(n, d, K=2, to_travelling=0.0, to_resident=1.0),
    "infonce, every option": lambda n, d: _infonce(n, d, K=1, **ALL),
    "ntxent": lambda n, d: _ntxent(n, d),
    "ntxent, every option": lambda n, d: _ntxent(n, d, **ALL),
    "siglip": lambda n, d: _siglip(n, d),
    "siglip, margin": lambda n, d: _siglip(n, d, margin=0.1),
}


def watched(loss: Callable[[], Tensor]) -> Watch:
    with Watch() as watch:
        loss().backward()
    return watch


def set_tile(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    monkeypatch.setattr(workers.losses.tiles, "TILE_BYTES", nbytes)


@pytest.mark.parametrize("plain_logit", [0.0, 70.0])
@pytest.mark.parametrize("name", LOSSES)
def test_no_full_matrix_is_held(name: str, plain_logit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.losses.contrast, "PLAIN_LOGIT", plain_logit)
    n, d, tile = 512, 4, 8192
    set_tile(monkeypatch, tile * FP64)
    # The full matrix has 262,144 numbers.
    assert watched(LOSSES[name](n, d)).largest <= tile
    set_tile(monkeypatch, 2**40)
    assert watched(LOSSES[name](n, d)).largest >= n * n, "the watch sees a full matrix where there is one"


@pytest.mark.parametrize("name", LOSSES)
def test_memory_is_linear(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the rows are twice the memory, as features outweigh the tile."""
    d, tile_bytes = 32, 96 * 1024
    set_tile(monkeypatch, tile_bytes)
    rows = 2 + 2 * (name == "infonce, hard negatives") + (name == "infonce, every option")
    for n in (512, 1024, 2048):
        # Two to three times the features: gradients, and the features times the scale. The matrix of 2,048 has 32 MiB.
        assert watched(LOSSES[name](n, d)).peak < 3.5 * rows * n * d * FP64 + 10 * tile_bytes


def _plain(name: str, n: int, d: int, rule: Rule, prefixes: Prefixes | None) -> Callable[[], Tensor]:
    """A loss of features in fp32, as a step takes it."""
    A, T = F.normalize(torch.randn(2, n, d), dim=-1)
    A, T, Z = (features.clone().requires_grad_() for features in (A, T, torch.stack([A, T], 1)[: n // 2]))
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
    if name == "siglip":
        return lambda: siglip(A, T, scale, bias, margin=rule.margin, prefixes=prefixes)
    if name == "ntxent":
        return lambda: ntxent(Z, scale, rule=rule, prefixes=prefixes)
    return lambda: infonce(A, T, scale, rule=rule, prefixes=prefixes)


@pytest.mark.parametrize("prefixes", [None, Prefixes((64, 32, 16), (1.0, 1.0, 1.0))])
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("infonce", Rule()),
        ("infonce", Rule(label_smoothing=0.1)),
        ("infonce", Rule(margin=0.1)),
        ("infonce", Rule(**ALL)),
        ("ntxent", replace(NTXENT, hardness=0.5)),
        ("siglip", Rule(margin=0.1)),
    ],
)
@pytest.mark.parametrize(("n", "d"), [(512, 64), (768, 192)])
def test_what_it_is_said_to_take_bounds_it(
    name: str, rule: Rule, prefixes: Prefixes | None, n: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where tiles take most of it, and where features do."""
    set_tile(monkeypatch, 2**17)
    said = loss_bytes(n, n, d, rule, prefixes, torch.device("cpu"), sigmoid=name == "siglip")
    taken = watched(_plain(name, n, d, rule, prefixes)).peak
    assert taken <= said <= 2.5 * taken


FACTORED = [name for name in LOSSES if "option" not in name and "siglip" not in name]


@pytest.mark.parametrize("name", FACTORED)
def test_kept_tiles_save_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is kept, the gradient is the same to the last bit; and a second backward pass has it too."""
    set_tile(monkeypatch, 4096 * FP64)
    torch.manual_seed(0)
    loss = LOSSES[name](256, 16)
    leaves = _leaves(loss())
    results, products = [], []
    for kept in (0.0, 1.0, 1000.0):
        monkeypatch.setattr(workers.losses.contrast, "KEPT", kept)
        monkeypatch.setattr(workers.losses.contrast, "KEPT_TILES", 0)
        for leaf in leaves:
            leaf.grad = None
        products.append(watched(loss).products)
        results.append([leaf.grad for leaf in leaves])
    assert products[0] > products[1] > products[2], products
    of_S = products[0] - products[2]  # with everything kept, S is computed once instead of twice
    assert of_S * (3 if name == "ntxent" else 4) == products[0]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)

    value = loss()
    once = torch.autograd.grad(value, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, leaves), once, rtol=0, atol=0)


def _leaves(value: Tensor) -> list[Tensor]:
    """What gradients go to."""
    found, nodes = {}, [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            if hasattr(node, "variable"):
                found[id(node.variable)] = node.variable
            nodes += [following for following, _ in node.next_functions]
    return list(found.values())
