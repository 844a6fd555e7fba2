"""Python code for the model card: how to get the embeddings of an export. The tests run it as it stands there.

Each piece defines `embed_<side>` (n images or texts -> (n, d), L2-normalised) for the sides that the model has.
"""

from __future__ import annotations

import json

from jobspecs.columns import Text
from workers.export.source import Source
from workers.export.towers import PlainTower


def two_towers(source: Source, class_name: str) -> str:
    """Of a CLIPModel or SiglipModel in one folder."""
    image, text = source.towers
    stretched = ", interpolate_pos_encoding=True" if image.interpolates else ""
    features = "features = getattr(features, 'pooler_output', features)  # transformers before 5 gave the tensor itself"
    return f"""\
import torch
from transformers import AutoImageProcessor, AutoTokenizer, {class_name}

folder = "."
model = {class_name}.from_pretrained(folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def embed_image(images):
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    features = model.get_image_features(pixel_values=pixels{stretched})
    {features}
    return torch.nn.functional.normalize(features)


@torch.inference_mode()
def embed_text(texts):
    {_tokens(source.spec.data.texts["text"], text)}
    features = model.get_text_features(**batch)
    {features}
    return torch.nn.functional.normalize(features)
"""


def towers(source: Source, folders: dict[str, str]) -> str:
    """Of towers that stand each by itself in a folder, given by the towers' names."""
    classes = sorted({tower.class_name for tower in source.towers})
    automatic = sorted({"AutoImageProcessor" if tower.name == "image" else "AutoTokenizer" for tower in source.towers})
    code = f"""\
import torch
from safetensors.torch import load_file
from transformers import {", ".join(sorted([*automatic, *classes]))}

networks, projections, processors = {{}}, {{}}, {{}}
"""
    for tower in source.towers:
        name, folder = tower.name, folders[tower.name]
        automatic_name = "AutoImageProcessor" if name == "image" else "AutoTokenizer"
        code += f"""\
networks["{name}"] = {tower.class_name}.from_pretrained("{folder}").eval()
processors["{name}"] = {automatic_name}.from_pretrained("{folder}")
"""
        if tower.projection:
            code += f'projections["{name}"] = load_file("{folder}/projection.safetensors")\n'
    return code + "".join(_side(source, tower, side) for tower in source.towers for side in tower.sides)


def plain(source: Source) -> str:
    """Of one file of weights and a config.json."""
    return """\
import json

import torch
import transformers
from safetensors.torch import load_file

with open("config.json") as file:
    config = json.load(file)
weights = load_file("model.safetensors")


def below(prefix):
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


networks, projections, processors = {}, {}, {}
for name, tower in config["towers"].items():
    network_class = getattr(transformers, tower["network"]["class"])
    networks[name] = network_class(network_class.config_class(**tower["network"]["config"])).eval()
    networks[name].load_state_dict(below(f"{name}.network."), strict=False)  # what no feature needs is left out
    projections[name] = below(f"{name}.projection.")
    kind = transformers.AutoImageProcessor if name == "image" else transformers.AutoTokenizer
    processors[name] = kind.from_pretrained(tower["processor"])
""" + "".join(_side(source, tower, side) for tower in source.towers for side in tower.sides)


def sentence_transformers(source: Source, folders: dict[str, str]) -> str:
    """Of text towers, each in its folder."""
    code = "import torch\nfrom sentence_transformers import SentenceTransformer\n\n"
    code += "".join(f'model_{name} = SentenceTransformer("{folder}")\n' for name, folder in folders.items())
    for tower in source.towers:
        for side in tower.sides:
            call = f"encode_{side}(texts" if side in ("query", "document") else "encode(texts"
            code += f"""

def embed_{side}(texts):
    return model_{tower.name}.{call}, convert_to_tensor=True)
"""
    return code


def sentence_transformers_two_towers() -> str:
    """Of a CLIPModel or SiglipModel in sentence-transformers' layout."""
    return """\
import torch
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(".")


def embed_image(images):
    return model.encode(images, convert_to_tensor=True)


def embed_text(texts):
    return model.encode(texts, convert_to_tensor=True)
"""


def _side(source: Source, tower: PlainTower, side: str) -> str:
    """The function of one side, with `networks`, `projections` and `processors` by name."""
    name = tower.name
    if side == "image":
        stretched = ", interpolate_pos_encoding=True" if tower.interpolates else ""
        argument = "images"
        inputs = f'pixels = processors["{name}"](images, return_tensors="pt")["pixel_values"]'
        call = f'output = networks["{name}"](pixel_values=pixels{stretched})'
    else:
        argument = "texts"
        inputs = _tokens(source.spec.data.texts[side], tower, f'processors["{name}"]')
        call = f'output = networks["{name}"](**batch)'
    lines = [inputs, call, *_pooled(tower), *_projected(tower)]
    body = "\n    ".join([*lines, "return torch.nn.functional.normalize(features)"])
    return f"\n\n@torch.inference_mode()\ndef embed_{side}({argument}):\n    {body}\n"


def _tokens(text: Text, tower: PlainTower, tokenizer: str = "tokenizer") -> str:
    texts = f"[{json.dumps(text.prefix)} + text for text in texts]" if text.prefix else "texts"
    padding = '"max_length"' if tower.reads_padding else "True"
    return (
        f"batch = {tokenizer}({texts}, padding={padding}, truncation=True, max_length={text.context_length}, "
        'return_tensors="pt")'
    )


def _pooled(tower: PlainTower) -> list[str]:
    hidden = "output.last_hidden_state"
    if tower.pooling == "own":
        return ["features = output.pooler_output.flatten(1)"]
    if tower.pooling == "cls":
        return [f"features = {hidden}[:, 0]"]
    if tower.name == "image":
        return [
            f"hidden = {hidden}",
            f"features = hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, {tower.prefix}:].mean(1)",
        ]
    if tower.pooling == "last":
        return [
            'last = batch["attention_mask"].sum(1) - 1',
            f"features = {hidden}[torch.arange(len(last)), last]",
        ]
    return ['mask = batch["attention_mask"][:, :, None]', f"features = ({hidden} * mask).sum(1) / mask.sum(1)"]


def _projected(tower: PlainTower) -> list[str]:
    lines = []
    for number, layer in enumerate(tower.projection):
        weights = f'projections["{tower.name}"]'
        bias = "" if layer.bias is None else f', {weights}["{number}.bias"]'
        linear = f'torch.nn.functional.linear(features, {weights}["{number}.weight"]{bias})'
        lines.append(f"features = {linear}{'.relu()' if layer.relu else ''}")
    return lines
