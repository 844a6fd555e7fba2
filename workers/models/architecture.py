"""An architecture of transformers: from a config, or with weights from a checkpoint, without what is never used.

A spec's tower -> an `Architecture`, which makes the network twice: as a skeleton (PyTorch's meta device: shapes
without memory) to ask what it needs, and for real. A model with two halves (CLIP, SigLIP) gives the half that is
wanted. None of the hub's code is run, and only safetensors are read: no pickle.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from jobspecs.errors import UsageError
from jobspecs.model import (
    ImageConfig,
    ImagePretrained,
    ImageTower,
    ImageTransformer,
    TextConfig,
    TextPretrained,
    TextTower,
    TextTransformer,
)
from workers.models import presets
from workers.models.model_files import ModelFiles
from workers.models.sentence_modules import SentenceModules, read_sentence_modules

_HALVES = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}
"""Attributes of a model with two halves."""
_CONFIGS = {"image": "vision_config", "text": "text_config"}
HIDDEN_DROPOUT = (
    "hidden_dropout_prob",
    "hidden_dropout",
    "dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
)
"""Names of the dropout of hidden states in transformers' configs."""

_OWN_IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm")
"""Of attention and of experts: those that transformers and PyTorch bring along."""


@dataclass
class Architecture:
    """An architecture with its place in the spec; `config` may still be changed before it is made."""

    section: ImageTower | TextTower
    """The tower's section."""
    place: str
    """Of the tower: `model.image`."""
    modality: str
    """image or text."""
    name: str
    """For messages: a model_type, or a checkpoint."""
    config: Any
    """transformers' config of the tower, or of the half of `whole`."""
    cls: Any
    """transformers' class of the tower, or of the model that it is a half of."""
    whole: Any = None
    """The config of the model that the tower is a half of, None where it is none."""
    folder: str | None = None
    """Where the weights are: a folder or a name on the hub. None: from scratch."""
    revision: str | None = None
    """Of the hub."""
    modules: SentenceModules | None = None
    """What a folder in sentence-transformers' layout says, None of another one."""
    missing: frozenset[str] = field(default=frozenset(), init=False)
    """Parameters that the checkpoint lacks, by their names in the tower; known once it was made for real."""

    def skeleton(self) -> tuple[nn.Module, nn.Module | None]:
        """The network and the projection that it ends in (None without), without memory for their weights."""
        with torch.device("meta"):
            return self._projected(*self._halved(self._scratch(self.cls)))

    def make(self) -> tuple[nn.Module, nn.Module | None]:
        """The same for real, in fp32 on the CPU. Random weights are drawn from torch's generator."""
        if self.folder is None:
            return self._halved(self._scratch(self.cls))
        try:
            model, loading = self.cls.from_pretrained(
                self.folder,
                config=self.whole or self.config,
                revision=self.revision,
                subfolder=self._subfolder,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
            network, own = self._projected(*self._halved(model))
            if self.modules is not None and self.modules.dense and own is not None:
                self.modules.fill(own, ModelFiles(self.folder, self.revision))
        except UsageError:
            raise
        except Exception as error:  # OSError, ValueError, RuntimeError, safetensors' own
            raise UsageError(
                f"{self.place}: the weights of {self.name} can't be loaded ({first_line(error)}). They must be in "
                "safetensors, as `save_pretrained` writes them"
            ) from error
        prefix = f"{_HALVES[self.modality][0]}." if self._is_half(model) else ""
        self.missing = frozenset(name.removeprefix(prefix) for name in loading["missing_keys"])
        return network, own

    @property
    def _subfolder(self) -> str:
        return "" if self.modules is None else self.modules.network

    def _scratch(self, cls: Any) -> Any:
        return cls._from_config(self.whole or self.config, dtype=torch.float32)

    def _is_half(self, model: Any) -> bool:
        return self.whole is not None or hasattr(model, _HALVES[self.modality][1])

    def _halved(self, model: Any) -> tuple[nn.Module, nn.Module | None]:
        if not self._is_half(model):
            return model, None
        network, projection = _HALVES[self.modality]
        if not isinstance(getattr(model, network, None), nn.Module):
            raise UsageError(
                f"{self.place}: {type(model).__name__} of {self.name} has no {network}, which the {self.modality} "
                f"tower could be. Name a checkpoint of a {self.modality} architecture"
            )
        return getattr(model, network), getattr(model, projection, None)

    def _projected(self, network: nn.Module, own: nn.Module | None) -> tuple[nn.Module, nn.Module | None]:
        """With the layers that a sentence-transformers folder puts behind the network, where the spec leaves the
        projection to the checkpoint."""
        if self.modules is None or self.section.projection != "auto":
            return network, own
        unread = list(self.modules.unread)
        if self.modules.dense and (own is not None or self.modality == "image"):
            unread.append("a Dense layer behind a model of images")
        if unread:
            raise UsageError(
                f"{self.place}.projection: {self.name} has {' and '.join(unread)} in modules.json, which is not read. "
                "Choose linear, mlp or none to do without it"
            )
        return network, self.modules.projection() or own


def architecture_of(tower: ImageTower | TextTower, place: str, modality: str) -> Architecture:
    """The architecture of a tower's section. Raises UsageError."""
    if isinstance(tower, ImagePretrained | TextPretrained):
        return _checkpoint(tower, place, modality)
    if isinstance(tower, ImageTransformer | TextTransformer):
        name = {"image": "clip_vision_model", "text": "clip_text_model"}[modality]
        settings: dict[str, Any] = {
            "hidden_size": tower.width,
            "intermediate_size": tower.width * tower.mlp_ratio,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
        }
        if isinstance(tower, ImageTransformer):
            settings["patch_size"] = tower.patch
    elif isinstance(tower, ImageConfig | TextConfig):
        name, settings = tower.architecture, dict(tower.settings)
    else:
        preset = (presets.IMAGE if modality == "image" else presets.TEXT)[tower.name]
        name, settings = preset.architecture, dict(preset.settings)
    return _from_settings(tower, name, settings, place, modality)


def _from_settings(
    tower: ImageTower | TextTower, name: str, settings: dict[str, Any], place: str, modality: str
) -> Architecture:
    from transformers import CONFIG_MAPPING

    if name not in CONFIG_MAPPING:
        raise UsageError(
            f"{place}.architecture: transformers knows no model_type {name!r}. Those it knows stand in its list of "
            "models, https://huggingface.co/docs/transformers, such as vit, dinov2, convnext, bert or qwen2"
        )
    config_class = CONFIG_MAPPING[name]
    config_class = getattr(config_class, "sub_configs", {}).get(_CONFIGS[modality], config_class)
    unknown = [key for key in settings if not hasattr(config_class(), key)]
    if unknown:
        known = sorted(key for key in vars(config_class()) if not key.startswith("_"))
        raise UsageError(
            f"{place}.settings.{unknown[0]}: {config_class.__name__} has no field {unknown[0]!r}. It has "
            f"{', '.join(known)}"
        )
    try:
        config = config_class(**settings)
    except Exception as error:  # TypeError, ValueError, huggingface_hub's validation
        raise UsageError(f"{place}.settings: {config_class.__name__} refuses them ({first_line(error)})") from error
    _switch_off_dropout(config)
    return Architecture(tower, place, modality, name, config, _class_of(config, place, modality))


def _checkpoint(tower: ImagePretrained | TextPretrained, place: str, modality: str) -> Architecture:
    import transformers

    path = os.path.expanduser(tower.name)
    is_folder = os.path.isdir(path)
    folder = path if is_folder else tower.name
    if is_folder and tower.revision is not None:
        raise UsageError(
            f"{place}.revision: {tower.name} is a folder, and folders have no revision {tower.revision!r}. Leave "
            "`revision` out, or move the folder if the name on the hub is meant"
        )
    if not is_folder and (tower.name.startswith((".", "/", "~")) or tower.name.count("/") > 1):
        raise UsageError(f"{place}.name: there is no folder {tower.name}. Correct it, or give a name on the hub")
    try:
        modules = read_sentence_modules(ModelFiles(folder, tower.revision))
        config = transformers.AutoConfig.from_pretrained(
            folder,
            revision=tower.revision,
            subfolder="" if modules is None else modules.network,
            trust_remote_code=False,
        )
    except Exception as error:  # OSError, ValueError, KeyError
        raise UsageError(
            f"{place}.name: {tower.name} can't be loaded ({first_line(error)}). It is a folder with a config.json "
            "and model.safetensors, or a name on the hub: check name, revision, network and, for a gated one, HF_TOKEN"
        ) from error
    _refuse_code(config, place, tower.name)
    _switch_off_dropout(config)
    half = getattr(config, _CONFIGS[modality], None)
    named = (getattr(config, "architectures", None) or [""])[0]
    if half is None and named.endswith("WithProjection") and hasattr(transformers, named):
        cls = getattr(transformers, named)  # a half that was saved by itself, with its projection
    else:
        cls = _class_of(config, place, modality)
    return Architecture(
        tower,
        place,
        modality,
        tower.name,
        config if half is None else half,
        cls,
        whole=None if half is None else config,
        folder=folder,
        revision=tower.revision,
        modules=modules,
    )


def _class_of(config: Any, place: str, modality: str) -> Any:
    """transformers' class of the bare network of a config."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    if modality == "text" and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)]  # of T5 the encoder alone
    if modality == "text" and getattr(config, "is_encoder_decoder", False):
        raise UsageError(
            f"{place}: transformers has no encoder alone of {type(config).__name__}, which also decodes. Choose "
            "another architecture"
        )
    if type(config) in MODEL_MAPPING:
        return MODEL_MAPPING[type(config)]
    # SiglipTextConfig stands in no mapping of transformers 5.
    cls = getattr(transformers, type(config).__name__.removesuffix("Config") + "Model", None)
    if cls is None:
        raise UsageError(f"{place}: transformers has no plain model for {type(config).__name__}. Choose another")
    return cls


def _refuse_code(config: Any, place: str, name: str) -> None:
    """Raises UsageError where a checkpoint's config asks for code that comes with it, or that transformers would fetch
    from the hub in place of its own: `auto_map`, attention or experts by the name of a repository."""
    asked = [getattr(config, f"_{part}_implementation", None) for part in ("attn", "experts")]
    foreign = [each for each in asked if each not in _OWN_IMPLEMENTATIONS]
    if getattr(config, "auto_map", None):
        foreign.append("auto_map")
    if foreign:
        raise UsageError(
            f"{place}.name: the config.json of {name} asks for code beside transformers' own ({foreign[0]}), and none "
            "is run. Take that out of a copy of the checkpoint, or choose another one"
        )
    for value in vars(config).values():
        if hasattr(value, "to_dict"):
            _refuse_code(value, place, name)


def _switch_off_dropout(config: Any) -> None:
    """Sets every rate of dropout to 0, those of nested configs too. Attention's dropout and stochastic depth draw
    from a generator and would depend on which rows share a forward pass."""
    if hasattr(config, "use_cache"):
        config.use_cache = False  # of a decoder's keys and values: nothing is generated
    for key, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _switch_off_dropout(value)
        elif "drop" in key and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, key, type(value)(0))


def first_line(error: Exception) -> str:
    """What an exception says, in short."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
