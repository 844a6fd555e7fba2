"""`--format safetensors`: plain weights by name, and what they mean, for any program.

    model.safetensors       fp32: `<tower>.network.<name in transformers>`; `<tower>.projection.<layer>.weight` and
                            `.bias`, linear layers (out, in) in their order; `logit_scale`, a logarithm; `logit_bias`
    config.json             `format`; `embedding_dim`; `sides`: of each its tower, and of texts prefix and context
                            length; `towers`: of each its network (transformers' class and config), pooling and layers
    <tower>/                its tokenizer or image processor, as transformers reads them

A feature is the pooled output of the network, through the layers, L2-normalised. Poolings: `own` is the network's
`pooler_output`; `cls` the first token; `last` the token that ends the text; `mean` that over the text's tokens, begin
and end included, or over the patches, without the `prefix` tokens before them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from workers.export import usage
from workers.export.source import Source
from workers.export.towers import PlainTower
from workers.export.transformers_format import save_processor

FORMAT = "tandem-export/1"


def write(source: Source, folder: Path) -> str:
    """Writes all but the model card; returns the Python that loads it. Raises UsageError."""
    weights = {"logit_scale": torch.tensor(source.log_scale), "logit_bias": torch.tensor(source.bias)}
    for tower in source.towers:
        weights |= {f"{tower.name}.network.{name}": value for name, value in tower.weights.items()}
        weights |= {f"{tower.name}.projection.{name}": value for name, value in tower.projection_weights.items()}
        save_processor(source, tower, folder / tower.name)
    # Copies: two names of one tensor (tied weights) are not accepted.
    safetensors.torch.save_file(
        {name: value.detach().contiguous().clone() for name, value in weights.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(_config(source), indent=2) + "\n", encoding="utf-8")
    return usage.plain(source)


def _config(source: Source) -> dict[str, Any]:
    texts = source.spec.data.texts
    sides: dict[str, dict[str, Any]] = {side: {"tower": tower.name} for tower in source.towers for side in tower.sides}
    for side, text in texts.items():
        sides[side] |= {"prefix": text.prefix, "context_length": text.context_length}
    return {
        "format": FORMAT,
        "embedding_dim": source.spec.model.embedding_dim,
        "sides": sides,
        "towers": {tower.name: _tower(tower) for tower in source.towers},
    }


def _tower(tower: PlainTower) -> dict[str, Any]:
    return {
        "network": {"class": tower.class_name, "config": tower.network.config.to_dict()},
        "processor": tower.name,
        "pooling": tower.pooling,
        "prefix": tower.prefix,
        "interpolates_positions": tower.interpolates,
        "reads_padding": tower.reads_padding,
        "projection": [{"bias": layer.bias is not None, "relu": layer.relu} for layer in tower.projection],
    }
