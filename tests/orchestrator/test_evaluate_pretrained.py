"""Models of other libraries score what they should: exports what their checkpoint does, others what the library's own
embeddings do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from jobspecs.errors import UsageError
from jobspecs.job import JobSpec
from jobspecs.load import dumps, load, loads
from orchestrator.evaluate_alone import evaluate_alone
from orchestrator.evaluate_pretrained import evaluate_pretrained, is_pretrained
from orchestrator.exporting import export_model
from orchestrator.find_checkpoint import find_checkpoint
from tests.orchestrator.command import tandem
from tests.workers.checkpoints import write_untrained_run
from tests.workers.data.pictures import encoded, photo
from tests.workers.export.specs import SPECS, TEXT_TEXT
from tests.workers.pretrained_folders import CAPTIONS, bert_like, clip_like
from tests.workers.tiny_job import scans, write_shards
from workers.data.demo_digits import CLASS_NAMES
from workers.data.demo_tar import TextPair, pack_shard
from workers.data.make_tokenizer import train_bpe
from workers.data.tokenize import byte_tokenizer
from workers.pretrained.load import Pretrained, load_pretrained
from workers.run import RunDirectory

NARROW = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BERT = f"kind: config, architecture: bert, settings: {json.dumps(NARROW)}"
TWO_BERTS = loads(
    TEXT_TEXT,
    "berts.yaml",
    (f"model={{embedding_dim: 16, query: {{{BERT}, pooling: cls}}, document: {{{BERT}, projection: mlp}}}}",),
)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Spec files with evaluations, by the names of their models."""
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder / "digits", list(scans()[:40]), shards=2)
    pairs = [
        TextPair(f"{caption} {number}", f"{number} is {caption}", ()) for number in range(4) for caption in CAPTIONS
    ]
    (folder / "pairs").mkdir()
    (folder / "pairs" / "00000.tar").write_bytes(pack_shard(0, pairs))
    digits, texts = {"urls": [f"{folder}/digits/*.tar"]}, {"urls": [f"{folder}/pairs/*.tar"]}
    of_images = [
        {"kind": "zero_shot", "name": "classes", "data": digits, "class_names": list(CLASS_NAMES)},
        {"kind": "retrieval", "name": "captions", "data": digits},
        {"kind": "knn", "name": "neighbours", "data": digits, "train": digits, "k": 5},
    ]
    of_texts = [
        {"kind": "retrieval", "name": "documents", "data": texts},
        {"kind": "health", "name": "spread", "data": texts},
    ]
    written = {}
    for name, spec in (SPECS | {"two_berts": TWO_BERTS}).items():
        evaluations = (
            of_texts if "query" in spec.data.texts else of_images[2:] if "text" not in spec.data.texts else of_images
        )
        stated = spec.model_dump(mode="json") | {"evaluations": evaluations}
        written[name] = folder / f"{name}.yaml"
        written[name].write_text(dumps(JobSpec.model_validate_json(json.dumps(stated))))
    return written


def scores_of(results: list[dict[str, Any]]) -> dict[str, float]:
    assert not [result["failed"] for result in results if "failed" in result]
    return {
        f"{result['evaluation']} {name}": value for result in results for name, value in result["scores"].items()
    } | {f"{result['evaluation']} data": result["data_fingerprint"] for result in results}


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("clip", "transformers"),
        ("clip", "sentence-transformers"),
        ("siglip", "transformers"),
        ("text", "sentence-transformers"),
        ("two_berts", "sentence-transformers"),
    ],
)
def test_an_export_scores_what_its_checkpoint_does(
    tmp_path: Path, specs: dict[str, Path], name: str, format_: str
) -> None:
    spec, run = load(specs[name], ()), RunDirectory(f"file://{tmp_path}/run")
    bpe = train_bpe(CAPTIONS, 300)
    tokenizers = {
        side: bpe if text.tokenizer.kind == "bpe" else byte_tokenizer() for side, text in spec.data.texts.items()
    }
    write_untrained_run(spec, run, tokenizers)
    found = find_checkpoint(f"{tmp_path}/run")
    export_model(found, format_, tmp_path / "out")
    told: list[str] = []
    assert is_pretrained(f"{tmp_path}/out")
    ours = scores_of(evaluate_alone(found, found.spec.evaluations, keep=False, tell=told.append))
    results = evaluate_pretrained(f"{tmp_path}/out", specs[name], (), told.append)
    assert scores_of(results) == pytest.approx(ours, abs=1e-4)
    assert {(result["step"], result["checkpoint"]) for result in results} == {(0, f"file://{tmp_path}/out")}
    if name == "text":
        assert any("query: up to 16 tokens, 'query: ' before each, BertModel pooled by mean" in line for line in told)
        assert any("document: up to 24 tokens, 'passage: ' before each" in line for line in told)


def clip_folder(folder: Path, **processor: Any) -> Path:
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(clip_like(folder)))
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=NARROW | {"vocab_size": vocabulary, "max_position_embeddings": 77, "eos_token_id": 1},
        vision_config=NARROW | {"patch_size": 8, "image_size": 24},
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    given = {"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}} | processor
    transformers.CLIPImageProcessor(**given).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "processor", [{}, {"size": {"height": 24, "width": 24}, "do_center_crop": False, "image_mean": [0.1, 0.2, 0.3]}]
)
def test_images_and_texts_are_prepared_as_the_folder_says(tmp_path: Path, processor: dict[str, Any]) -> None:
    folder = clip_folder(tmp_path, **processor)
    data = SPECS["clip"].data
    pretrained = load_pretrained(str(folder), data, ("image", "text"))
    assert pretrained.images is not None
    assert pretrained.data.image is not None
    picture = photo(70, 50)
    pixels = pretrained.images(encoded(picture, "PNG"), pretrained.data.image)
    image = pretrained.model.embed("image", {"pixels": torch.from_numpy(pixels)[None]})
    text = pretrained.model.embed("text", {"tokens": tokens_of(pretrained, "text", CAPTIONS[0])})
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    inputs = transformers.AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
    words = transformers.AutoTokenizer.from_pretrained(folder)(CAPTIONS[0], return_tensors="pt")
    with torch.no_grad():
        output = theirs(**inputs, input_ids=words["input_ids"], attention_mask=words["attention_mask"])
    torch.testing.assert_close(image, output.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(text, output.text_embeds, atol=1e-5, rtol=0)


def tokens_of(pretrained: Pretrained, side: str, text: str) -> torch.Tensor:
    section = pretrained.data.texts[side]
    tokens = pretrained.tokenizers[side].encode(section.prefix + text, section.context_length)
    return torch.from_numpy(np.stack([tokens]))


def sentence_folder(folder: Path, **settings: Any) -> Path:
    """A BERT in a folder of its own, pooled by its first token, with a Dense layer behind it; `settings` are those of
    config_sentence_transformers.json, and `dense` and `modules` what else is said of the layer and the layout."""
    network = folder / "0_Transformer"
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(bert_like(network)))
    torch.manual_seed(0)
    config = transformers.BertConfig(**NARROW, vocab_size=vocabulary, max_position_embeddings=30)
    transformers.BertModel(config).save_pretrained(network)
    (network / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": False}))
    kinds = settings.pop("modules", ("Transformer", "Pooling", "Dense", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for number, kind in enumerate(kinds[1:], start=1):
        (folder / f"{number}_{kind}").mkdir()
        if kind == "Dense":
            layer = {"in_features": 16, "out_features": 12, "bias": True, **settings.pop("dense", {})}
            layer = {"activation_function": "torch.nn.modules.activation.Tanh"} | layer
            (folder / f"{number}_{kind}" / "config.json").write_text(json.dumps(layer))
            weights = {"linear.weight": torch.randn(12, 16), "linear.bias": torch.randn(12)}
            save_file(weights, folder / f"{number}_{kind}" / "model.safetensors")
        if kind == "Pooling":
            pooling = {"pooling_mode_cls_token": True, **settings.pop("pooling", {})}
            (folder / f"{number}_{kind}" / "config.json").write_text(json.dumps(pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def test_dense_layers_prompts_and_lengths_of_sentence_transformers(tmp_path: Path) -> None:
    prompts = {"query": "find: ", "passage": "text: "}
    folder = sentence_folder(tmp_path, prompts=prompts)
    pretrained = load_pretrained(str(folder), SPECS["text"].data, ("query", "document"))
    texts = pretrained.data.texts
    assert {side: (text.prefix, text.context_length) for side, text in texts.items()} == {
        "query": ("find: ", 20),
        "document": ("text: ", 20),
    }
    found = pretrained.model.embed("document", {"tokens": tokens_of(pretrained, "document", CAPTIONS[0])})
    network = transformers.BertModel.from_pretrained(folder / "0_Transformer").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "0_Transformer")
    words = tokenizer("text: " + CAPTIONS[0], return_tensors="pt", truncation=True, max_length=20)
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    with torch.no_grad():
        pooled = network(**words).last_hidden_state[:, 0]
        expected = torch.tanh(torch.nn.functional.linear(pooled, weights["linear.weight"], weights["linear.bias"]))
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"dense": {"activation_function": "their.own.Swish"}},
            "has a Dense layer with the activation Swish in modules",
        ),
        ({"dense": {"use_residual": True}}, "a Dense layer with a residual connection"),
        ({"modules": ("Transformer", "Pooling", "Normalize", "Dense")}, "has Normalize before a Dense layer"),
        ({"modules": ("Transformer", "Pooling", "LayerNorm")}, "has a module LayerNorm in modules.json, which is not"),
        ({"dense": {"out_features": 13}}, "2_Dense/model.safetensors does not fit its config.json"),
        ({"pooling": {"pooling_mode_mean_tokens": True}}, "pools by cls, mean, which is not one of"),
        (
            {"pooling": {"include_prompt": False}, "prompts": {"query": "q: "}},
            "leaves the prompt 'q: ' out when it pools",
        ),
        (
            {"modules": ("Transformer", "Pooling"), "similarity_fn_name": "dot"},
            "to be compared by 'dot' .* evaluations compare by cosine",
        ),
    ],
)
def test_what_would_not_be_as_its_authors_meant_is_refused(
    tmp_path: Path, settings: dict[str, Any], expected: str
) -> None:
    folder = sentence_folder(tmp_path, **settings)
    with pytest.raises(UsageError, match=expected):
        load_pretrained(str(folder), SPECS["text"].data, ("query", "document"))


def test_a_dense_layer_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"there is no 2_Dense/model\.safetensors.* They must be in safetensors"):
        load_pretrained(str(folder), SPECS["text"].data, ("query",))


def test_what_a_folder_lacks_for_an_evaluation_is_said(tmp_path: Path, specs: dict[str, Path]) -> None:
    text, image = sentence_folder(tmp_path / "text"), tmp_path / "image"
    config = transformers.ViTConfig(**NARROW, patch_size=8, image_size=32)
    transformers.ViTModel(config).save_pretrained(image)

    def fault(folder: Path, spec: Path | None, *only: str, **options: bool) -> str:
        with pytest.raises(UsageError) as raised:
            evaluate_pretrained(str(folder), spec, only, lambda message: None, **options)
        return str(raised.value)

    assert "is a model of texts (bert), and knows no images. Leave evaluations with images" in fault(
        text, specs["clip"]
    )
    assert "is a model of images (vit), and knows no texts" in fault(image, specs["text"])
    assert "says how they are prepared" not in fault(image, specs["clip"], "neighbours")
    assert "does not say how they are prepared" in fault(image, specs["clip"], "neighbours")
    assert f"{text} is a model of another library, and no spec says" in fault(text, None)
    assert "has one set of weights. Leave it out" in fault(text, specs["text"], raw=True)
    assert "--only: there is no evaluation 'sts'" in fault(text, specs["text"], "sts")
    transformers.CLIPImageProcessor(do_rescale=False).save_pretrained(image)
    assert "does not scale values to 0…1" in fault(image, specs["clip"], "neighbours")
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(image)
    assert "evaluations take squares of one size" in fault(image, specs["clip"], "neighbours")
    with pytest.raises(UsageError, match="folders have no revision 'main'"):
        load_pretrained(str(text), SPECS["text"].data, ("query",), "main")


def test_a_name_that_the_hub_does_not_give_and_files_that_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str, file: str, **options: object) -> None:
        raise OSError(f"no connection for {name} at {options['revision']}")

    monkeypatch.setattr("transformers.utils.cached_file", offline)
    with pytest.raises(
        UsageError, match=r"no such folder, and the hub did not .* \(no connection for a/b at v1\)\. Check"
    ):
        load_pretrained("a/b", SPECS["text"].data, ("query",), "v1")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"it can't be read .* Bring the files in order"):
        load_pretrained(str(tmp_path), SPECS["text"].data, ("query",))


def test_towers_whose_widths_differ_can_not_be_compared(tmp_path: Path) -> None:
    text = sentence_folder(tmp_path / "text")
    text.rename(tmp_path / "query")
    clip_folder(tmp_path / "document")
    with pytest.raises(UsageError, match=r"differ in width \(query 12, document 24\)"):
        load_pretrained(str(tmp_path), SPECS["text"].data, ("query", "document"))


def test_exports_that_their_own_card_alone_explains_are_refused(tmp_path: Path, specs: dict[str, Path]) -> None:
    write_untrained_run(load(specs["mixed"], ()), RunDirectory(f"file://{tmp_path}/run"), {"text": byte_tokenizer()})
    found = find_checkpoint(f"{tmp_path}/run")
    for format_ in ("transformers", "safetensors"):
        export_model(found, format_, tmp_path / format_)
        assert is_pretrained(f"{tmp_path}/{format_}")
        with pytest.raises(UsageError, match=r"stands in its README\.md alone\. Evaluate the checkpoint"):
            evaluate_pretrained(f"{tmp_path}/{format_}", specs["mixed"], (), lambda message: None)


def test_runs_folders_and_names_on_the_hub_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "spec.yaml").touch()
    (tmp_path / "models" / "theirs").mkdir(parents=True)
    (tmp_path / "models" / "theirs" / "config.json").touch()
    told_apart = {
        "models/theirs": True,
        "openai/clip-vit-base-patch32": True,
        "openai/clip-vit-base-patch32@3d74acf": True,
        "runs/tiny": False,
        "runs/tinny": False,
        "tiny": False,
        "./nowhere": False,
        "../nowhere": False,
        "s3://bucket/runs": False,
        "runs/tiny/checkpoints/step-00000007": False,
    }
    assert {argument: is_pretrained(argument) for argument in told_apart} == told_apart
    with pytest.raises(UsageError, match=r"holds no run\. .* `tandem eval` also takes a model folder of transformers"):
        find_checkpoint("./nowhere")


def test_the_command_scores_a_folder(tmp_path: Path, specs: dict[str, Path]) -> None:
    folder = clip_folder(tmp_path / "clip")
    call = ("eval", str(folder), "--spec", str(specs["clip"]), "--only", "captions", "-o", "json")
    answer = tandem(*call)
    assert answer.returncode == 0, answer.stderr
    (result,) = json.loads(answer.stdout)
    assert (result["evaluation"], result["samples"]) == ("captions", 40)
    assert answer.stderr.splitlines() == [
        f"{folder}: image: 24x24, CLIPVisionModel pooled by own; text: up to 77 tokens, nothing before them, "
        "CLIPTextModel pooled by last",
        f"evaluation captions of file://{folder}",
    ]
