"""`--format sentence-transformers`: text towers, or a CLIPModel or SiglipModel of two.

    DIR/                      the model, modules.json, 1_Pooling, 2_Dense where there is a projection, the last
                              module normalises
    DIR/query, DIR/document   two text towers that are not one: a model each

Prefixes are its prompts: `encode_query` and `encode_document` put them there, as `encode` does that of a single column.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch

from jobspecs.errors import UsageError
from workers.export import usage
from workers.export.source import Source
from workers.export.towers import PlainTower
from workers.export.transformers_format import save_processor
from workers.export.two_towers import two_tower_model

_MODULES = "sentence_transformers.models"
"""Where all versions of the library find its modules."""
_POOLINGS = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
"""Our poolings, as its config has them: `pooling_mode_mean_tokens`."""
_VIEWS = {side: {"method": f"get_{side}_features", "method_output_name": "pooler_output"} for side in ("text", "image")}
"""How it gets the features of a model of two towers; from its version 6 on."""


def write(source: Source, folder: Path) -> str:
    """Writes all but the model card; returns the Python that loads it. Raises UsageError: a tower that the library
    has no modules for."""
    model = two_tower_model(source)
    if model is not None:
        return _two_towers(source, model, folder)
    towers = source.towers
    if towers[0].name == "image":
        raise UsageError(
            f"model.image: sentence-transformers has no modules for it ({towers[0]}): of models with images it loads "
            "CLIP's and SigLIP's two towers only. Export with --format transformers or safetensors"
        )
    for tower in towers:
        if tower.pooling not in _POOLINGS:
            raise UsageError(
                f"model.{tower.name}: sentence-transformers has no module that pools as it does ({tower}). Export with "
                "--format transformers or safetensors"
            )
    folders = {tower.name: tower.name if len(towers) > 1 else "." for tower in towers}
    for tower in towers:
        _text_tower(source, tower, folder / folders[tower.name])
    return usage.sentence_transformers(source, folders)


def _two_towers(source: Source, model: Any, folder: Path) -> str:
    from transformers import AutoProcessor

    text = source.spec.data.texts["text"]
    if text.prefix:
        raise UsageError(
            f"data.text.prefix: {text.prefix!r} stands before texts alone, and a prompt of sentence-transformers goes "
            "before all inputs. Export with --format transformers or safetensors"
        )
    image_tower, text_tower = source.towers
    if image_tower.interpolates:
        raise UsageError(
            f"data.image.size: {image_tower.network.name_or_path or 'the checkpoint'} has learnt positions of another "
            "size, and sentence-transformers can't ask for stretched ones. Export with --format transformers or "
            "safetensors"
        )
    model.save_pretrained(folder)
    for tower in source.towers:
        save_processor(source, tower, folder)
    # Says that both belong together.
    AutoProcessor.from_pretrained(folder, trust_remote_code=False).save_pretrained(folder)
    settings: dict[str, Any] = {"max_seq_length": text.context_length, "modality_config": _VIEWS}
    if text_tower.reads_padding:
        settings["processing_kwargs"] = {"text": {"padding": "max_length"}}
    _json(folder / "sentence_bert_config.json", {**settings, "module_output_name": "sentence_embedding"})
    _modules(folder, ["Transformer", "Normalize"])
    return usage.sentence_transformers_two_towers()


def _text_tower(source: Source, tower: PlainTower, folder: Path) -> None:
    texts = {side: source.spec.data.texts[side] for side in tower.sides}
    lengths = {side: text.context_length for side, text in texts.items()}
    tower.save_network(folder)
    save_processor(source, tower, folder)
    settings: dict[str, Any] = {"max_seq_length": max(lengths.values()), "do_lower_case": False}
    if len(set(lengths.values())) > 1:  # the library knows these from version 6 on
        settings |= {f"{side}_length": length for side, length in lengths.items()}
    _json(folder / "sentence_bert_config.json", settings)
    width = tower.projection[0].weight.shape[1] if tower.projection else source.spec.model.embedding_dim
    pooling = {
        "word_embedding_dimension": width,
        f"pooling_mode_{_POOLINGS[tower.pooling]}": True,
        "include_prompt": True,
    }
    names = ["Transformer", "Pooling", *["Dense"] * len(tower.projection), "Normalize"]
    _json(folder / "1_Pooling" / "config.json", pooling)
    for number, layer in enumerate(tower.projection, start=2):
        place = folder / f"{number}_Dense"
        out_features, in_features = layer.weight.shape
        activation = "torch.nn.modules.activation.ReLU" if layer.relu else "torch.nn.modules.linear.Identity"
        settings = {"in_features": in_features, "out_features": out_features, "bias": layer.bias is not None}
        _json(place / "config.json", {**settings, "activation_function": activation})
        weights = {"linear.weight": layer.weight, **({} if layer.bias is None else {"linear.bias": layer.bias})}
        safetensors.torch.save_file(weights, place / "model.safetensors")
    _modules(folder, names)
    prompts = {side: text.prefix for side, text in texts.items()}
    default = {"default_prompt_name": "text"} if "text" in prompts else {}
    _json(folder / "config_sentence_transformers.json", {"prompts": prompts, **default, "similarity_fn_name": "cosine"})


def _modules(folder: Path, names: list[str]) -> None:
    """The list of modules, in their order; the first one's files lie in the folder itself."""
    modules = []
    for number, name in enumerate(names):
        path = f"{number}_{name}" if number else ""
        (folder / path).mkdir(parents=True, exist_ok=True)
        modules.append({"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{name}"})
    _json(folder / "modules.json", modules)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
