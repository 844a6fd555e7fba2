"""Masks depend on the row's key, the layer and the element alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from workers.models.dropout import KeyedDropout, RowKeys, drawn_at_random, keep_mask, mix, replace_dropout, word_of

KEYS = torch.arange(6, dtype=torch.int64) * 7919 - 3


def test_mix_is_splitmix64() -> None:
    """The first outputs of the published generator with seed 1234567 (Vigna's splitmix64.c)."""
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + turn * gamma) % 2**64 for turn in (1, 2, 3)]
    signed = torch.from_numpy(np.array(states, dtype=np.uint64).view(np.int64).copy())
    words = mix(signed).numpy().view(np.uint64)
    assert words.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_kept(rate: float) -> None:
    mask = keep_mask(torch.arange(400), word_of("a"), 1001, rate)
    deviation = (rate * (1 - rate) / mask.numel()) ** 0.5
    assert abs(float((~mask).double().mean()) - rate) < 5 * deviation
    # And so over rows, and over places.
    for axis in (0, 1):
        part = (~mask).double().mean(axis)
        assert part.std() < 1.3 * (rate * (1 - rate) / mask.shape[axis]) ** 0.5


def test_rows_layers_and_elements_differ_and_a_replay_is_equal() -> None:
    mask = keep_mask(KEYS, word_of("a"), 4000, 0.5)
    assert torch.equal(mask, keep_mask(KEYS, word_of("a"), 4000, 0.5))
    agreement = [
        (mask == keep_mask(KEYS, word_of("b"), 4000, 0.5)).double().mean(),
        (mask[1:] == mask[:-1]).double().mean(),
        (mask[:, 1:] == mask[:, :-1]).double().mean(),
        (mask[:, 4:] == mask[:, :-4]).double().mean(),
    ]
    assert all(abs(float(part) - 0.5) < 0.02 for part in agreement), agreement


@pytest.mark.parametrize("parts", [[6], [1, 5], [2, 2, 2], [1] * 6])
def test_splits_of_a_batch_give_equal_bits(parts: list[int]) -> None:
    rows = RowKeys()
    layer = KeyedDropout(0.3, "text.layer.0", rows).train()
    hidden = torch.randn(6, 5, 7)
    with rows.of(KEYS):
        whole = layer(hidden)
    pieces = []
    for piece, keys in zip(hidden.split(parts), KEYS.split(parts), strict=True):
        torch.rand(3)  # the generator's state is of no matter
        with rows.of(keys):
            pieces.append(layer(piece))
    assert torch.equal(torch.cat(pieces), whole)
    kept = whole != 0
    torch.testing.assert_close(whole[kept], hidden[kept] / (1 - layer.rate))
    assert torch.equal(layer.eval()(hidden), hidden)


def test_without_keys_or_with_those_of_other_rows() -> None:
    rows = RowKeys()
    layer = KeyedDropout(0.3, "a", rows).train()
    with pytest.raises(ValueError, match="needs the rows' keys"):
        layer(torch.ones(2, 3))
    with rows.of(KEYS), pytest.raises(ValueError, match="hidden states of 2 rows, keys of 6"):
        layer(torch.ones(2, 3))


def test_a_checkpointed_layer_is_computed_again_with_its_own_keys() -> None:
    rows = RowKeys()
    layer = nn.Sequential(nn.Linear(4, 4), KeyedDropout(0.5, "a", rows), nn.Linear(4, 4))
    hidden = torch.randn(3, 4)
    gradients = []
    for checkpointed in (False, True):
        layer.zero_grad()
        with rows.of(KEYS[:3]):
            first = rows.checkpoint(layer, hidden) if checkpointed else layer(hidden)
        with rows.of(KEYS[3:]):
            layer(hidden)
            first.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None])
    assert all(torch.equal(direct, again) for direct, again in zip(*gradients, strict=True))


def test_every_dropout_with_a_rate_is_replaced_and_the_rest_found() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = 0.2

    network = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.0), nn.Dropout(0.2)), Functional())
    assert replace_dropout(network, "text", RowKeys()) == 2
    layers = [module for module in network.modules() if isinstance(module, KeyedDropout)]
    assert len({layer.layer for layer in layers}) == 2
    assert drawn_at_random(network) == ["2.dropout"]
