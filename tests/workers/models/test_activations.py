"""What a forward pass keeps, as counted and as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jobspecs.load import loads
from workers.data.tokenize import byte_tokenizer
from workers.models.activations import Activations
from workers.models.build import activations_of, build

SPEC = """
apiVersion: tandem/v1
name: kept
objective: {kind: image_text}
data:
  sources: [{name: none, urls: ["none.tar"]}]
  image: {column: jpg, size: 32}
  text: {column: txt, context_length: 16}
model:
  image: {kind: transformer, width: 32, layers: 3, heads: 2, patch: 8}
  text: {kind: config, architecture: bert, settings: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
         intermediate_size: 64}, dropout: 0.1}
  embedding_dim: 16
training: {global_batch: 8, steps: 1, optimizer: {kind: adamw, learning_rate: 1e-3}}
"""
TOKENIZERS = {"text": byte_tokenizer()}
ROWS = 6


def really_kept(side: str, precision: str) -> int:
    """By a pass over rows that are there."""
    spec = loads(SPEC, "kept.yaml")
    model = build(spec.model, spec.data, spec.objective, spec.seed, TOKENIZERS).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    inputs = {"pixels": torch.zeros(ROWS, 32, 32, 3, dtype=torch.uint8)}
    if side == "text":
        inputs = {"tokens": torch.full((ROWS, 16), TOKENIZERS["text"].end)}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        model.tower(side)(inputs, torch.arange(ROWS), torch.ones(ROWS, dtype=torch.bool))
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("side", ["image", "text"])
def test_what_is_counted_is_what_is_kept(side: str, precision: str) -> None:
    spec = loads(SPEC, "kept.yaml")
    counted = activations_of(spec.model, spec.data, TOKENIZERS, precision)[side]  # type: ignore[arg-type]
    assert counted.of(ROWS) == pytest.approx(really_kept(side, precision), rel=0.01)


def test_checkpointed_blocks_keep_their_inputs_and_one_of_them_the_rest() -> None:
    spec = loads(SPEC, "kept.yaml")
    kept = activations_of(spec.model, spec.data, TOKENIZERS, "fp32")
    less = activations_of(spec.model, spec.data, TOKENIZERS, "fp32", gradient_checkpointing=True)
    for side in kept:
        assert 0.2 * kept[side].of(ROWS) < less[side].of(ROWS) < 0.8 * kept[side].of(ROWS)


def test_rows_add_up() -> None:
    assert Activations(per_row=10.0, once=5.0).of(3) == 35.0
