"""A tower in terms of the libraries that shall load it: a network of transformers, a pooling, linear layers.

n rows, w width of the network, d of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jobspecs.errors import UsageError
from workers.models.image_tower import ImageTower
from workers.models.text_tower import TextTower
from workers.models.tower import Tower


@dataclass(frozen=True)
class Layer:
    """A linear layer of the projection."""

    weight: Tensor
    """(out, in)."""
    bias: Tensor | None
    """(out,)."""
    relu: bool
    """Whether a ReLU follows."""


@dataclass(frozen=True)
class PlainTower:
    """A tower without anything of ours."""

    name: str
    """image, text, query or document."""
    sides: tuple[str, ...]
    """What it encodes: its own name, or query and document."""
    network: Any
    """transformers' model. Parts without use were taken out of it: it is there for its class, config and weights."""
    pooling: str
    """own, cls, mean or last."""
    prefix: int
    """Of an image tower: tokens that stand before the patches, which `mean` leaves out."""
    interpolates: bool
    """Of an image tower: whether positions are stretched to the size of the images."""
    reads_padding: bool
    """Of a text tower: whether padding is text to it."""
    projection: tuple[Layer, ...]
    """Behind the pooling; none where the pooled feature is the embedding."""

    @classmethod
    def of(cls, name: str, sides: tuple[str, ...], tower: Tower) -> PlainTower:
        """Of a tower as training has it. Raises UsageError."""
        return cls(
            name=name,
            sides=sides,
            network=tower.network,
            pooling=tower.pooling,
            prefix=tower.prefix if isinstance(tower, ImageTower) else 0,
            interpolates=isinstance(tower, ImageTower) and tower.interpolates,
            reads_padding=isinstance(tower, TextTower) and tower.reads_padding,
            projection=_layers(tower.projection, name),
        )

    @property
    def class_name(self) -> str:
        """transformers' class of the network."""
        return type(self.network).__name__

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers of the network by transformers' names; those without use are not among them."""
        state: dict[str, Tensor] = self.network.state_dict()
        return state

    @property
    def projection_weights(self) -> dict[str, Tensor]:
        """Those of the linear layers: `0.weight`, `0.bias`, `1.weight`, in their order."""
        named = {}
        for number, layer in enumerate(self.projection):
            named[f"{number}.weight"] = layer.weight
            if layer.bias is not None:
                named[f"{number}.bias"] = layer.bias
        return named

    def save_network(self, folder: Path) -> None:
        """Writes the network as `<class>.from_pretrained(folder)` reads it."""
        self.network.save_pretrained(folder, state_dict=self.weights)

    def __str__(self) -> str:
        """For people: BertModel, pooled by mean, projected by 1 linear layer."""
        layers = len(self.projection)
        projected = f"projected by {layers} linear layer{'s' if layers > 1 else ''}" if layers else "not projected"
        return f"{self.class_name}, pooled by {self.pooling}, {projected}"


def _layers(projection: nn.Module, name: str) -> tuple[Layer, ...]:
    modules = [module for module in projection.modules() if not isinstance(module, nn.Sequential | nn.Identity)]
    layers: list[Layer] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            layers.append(Layer(module.weight.detach(), None if module.bias is None else module.bias.detach(), False))
        elif isinstance(module, nn.ReLU) and layers:
            layers[-1] = replace(layers[-1], relu=True)
        else:
            raise UsageError(
                f"model.{name}: the projection of this checkpoint, {type(projection).__name__}, is not made of linear "
                "layers, and no format of an export holds it. Train with `projection: linear` to export the model"
            )
    return tuple(layers)
