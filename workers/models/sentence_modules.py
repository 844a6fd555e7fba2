"""A model in sentence-transformers' layout: what its `modules.json` puts behind the network.

    Transformer | CLIPModel, Pooling, Dense…, Normalize          in this order; the first one alone must be there

Features are compared by cosine here, so that `Normalize` at the end changes nothing. Dense layers (linear, an
activation) are the projection that a checkpoint brings along. Weights are read from safetensors alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import nn

from workers.models.model_files import ModelFiles

MODULES = "modules.json"
_NETWORKS = ("Transformer", "CLIPModel")
_NO_EFFECT = ("Normalize", "Dropout")
"""Behind the last layer, and where nothing is trained."""
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    cls.__name__: cls for cls in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
}
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "lasttoken": "last",
}
"""Ours, by the names that its versions have for them; `cls` and `mean` are called so too."""


@dataclass(frozen=True)
class Dense:
    """A linear layer and what follows it."""

    path: str
    """Of its folder in the model."""
    in_features: int
    out_features: int
    bias: bool
    activation: str
    """A class of torch.nn."""


@dataclass(frozen=True)
class SentenceModules:
    """What stands in `modules.json`."""

    network: str
    """Folder of the network in the model, "" where that is the model's own."""
    poolings: tuple[str, ...] | None
    """What `Pooling` concatenates: cls, mean, last, or names that only the library knows. None: there is none."""
    pools_prompts: bool
    """Whether prompts are pooled with the text."""
    dense: tuple[Dense, ...]
    normalizes: bool
    """Whether embeddings are of length 1."""
    unread: tuple[str, ...]
    """What else stands there, or stands where it is not expected, in words."""

    def projection(self) -> nn.Module | None:
        """The Dense layers, without weights that mean anything; None where there are none."""
        layers: list[nn.Module] = []
        for dense in self.dense:
            layers.append(nn.Linear(dense.in_features, dense.out_features, bias=dense.bias))
            if dense.activation != nn.Identity.__name__:
                layers.append(_ACTIVATIONS[dense.activation]())
        return nn.Sequential(*layers) if layers else None

    def fill(self, projection: nn.Module, files: ModelFiles) -> None:
        """Gives `projection` its weights. Raises OSError, ValueError: there are none in safetensors, or not these."""
        import safetensors.torch

        linear = [module for module in projection.modules() if isinstance(module, nn.Linear)]
        for dense, layer in zip(self.dense, linear, strict=True):
            path = files.path(f"{dense.path}/model.safetensors")
            if path is None:
                raise OSError(f"there is no {dense.path}/model.safetensors")
            stored = safetensors.torch.load_file(path)
            weights = {name.removeprefix("linear."): value.to(torch.float32) for name, value in stored.items()}
            try:
                layer.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(f"{dense.path}/model.safetensors does not fit its config.json: {error}") from error


def read_sentence_modules(files: ModelFiles) -> SentenceModules | None:
    """None of a model in another layout. Raises OSError, ValueError: files that can't be read."""
    stated = files.json(MODULES)
    if stated is None:
        return None
    network, poolings, pools_prompts = "", None, True
    dense: list[Dense] = []
    unread: list[str] = []
    try:
        modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in stated]
        for number, (kind, path) in enumerate(modules):
            if kind in _NETWORKS and number == 0:
                network = "" if path in ("", ".") else str(PurePosixPath(path))
            elif kind == "Pooling" and poolings is None and not dense:
                config = files.json(f"{path}/config.json") or {}
                poolings, pools_prompts = _poolings(config), config.get("include_prompt", True) is True
            elif kind == "Dense":
                layer = files.json(f"{path}/config.json") or {}
                if (fault := _unread_layer(layer)) is not None:
                    unread.append(f"a Dense layer with {fault}")
                else:
                    dense.append(_dense(path, layer))
            elif kind not in _NO_EFFECT or "Dense" in dict(modules[number:]):
                unread.append(f"a module {kind}" if kind not in _NO_EFFECT else f"{kind} before a Dense layer")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{MODULES} or a config.json that it names is not as the library writes it") from error
    normalizes = any(kind == "Normalize" for kind, _ in modules)
    return SentenceModules(network, poolings, pools_prompts, tuple(dense), normalizes, tuple(unread))


def _poolings(config: dict[str, Any]) -> tuple[str, ...]:
    stated = config.get("pooling_mode")
    names: Sequence[str] = [mode for mode, on in config.items() if mode.startswith("pooling_mode_") and on is True]
    if stated is not None:
        names = [stated] if isinstance(stated, str) else stated
    return tuple(_POOLINGS.get(name, name) for name in names)


def _dense(path: str, config: dict[str, Any]) -> Dense:
    return Dense(
        path=path,
        in_features=config["in_features"],
        out_features=config["out_features"],
        bias=config.get("bias", True),
        activation=_activation(config),
    )


def _activation(config: dict[str, Any]) -> str:
    return str(config.get("activation_function", "Tanh")).rpartition(".")[2]


def _unread_layer(config: dict[str, Any]) -> str | None:
    """What a layer does that ours does not."""
    if _activation(config) not in _ACTIVATIONS:
        return f"the activation {_activation(config)}"
    if config.get("use_residual"):
        return "a residual connection"
    names = {config.get("module_input_name"), config.get("module_output_name")}
    if not names <= {None, "sentence_embedding"}:
        return "another input or output than the sentence's feature"
    return None
