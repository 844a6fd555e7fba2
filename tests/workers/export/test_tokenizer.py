"""transformers' tokenizer gives the ids of ours, in every kind, beside any model's config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertConfig, CLIPConfig, LlamaConfig, PretrainedConfig, Qwen2Config

from jobspecs.errors import UsageError
from tests.workers import pretrained_folders as folders
from workers.data.make_tokenizer import pretrained, train_bpe
from workers.data.tokenize import Tokenizer, byte_tokenizer
from workers.export.tokenizer import save_tokenizer

TEXTS = [
    "",
    "A photo of the  digit\tseven\n",
    "Ünïcödé ☃ é 😀 \x00",
    "<|end|> [SEP] [MASK] <|padding|>",
    "a b " * 40,
]


@pytest.fixture(scope="module", params=["bytes", "bpe", "clip_like", "bert_like", "t5_like", "gpt2_like"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "bytes":
        return byte_tokenizer()
    if request.param == "bpe":
        return train_bpe(folders.CAPTIONS, 300)
    make: Callable[[Path], Path] = getattr(folders, request.param)
    return pretrained(str(make(tmp_path_factory.mktemp("pretrained"))), None)


@pytest.mark.parametrize("config", [CLIPConfig, BertConfig, LlamaConfig])
def test_ids_padding_and_mask_are_ours(tmp_path: Path, tokenizer: Tokenizer, config: type[PretrainedConfig]) -> None:
    config().save_pretrained(tmp_path)
    save_tokenizer(tokenizer, 24, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    found = loaded(TEXTS, padding="max_length", truncation=True)
    for text, ids, mask in zip(TEXTS, found["input_ids"], found["attention_mask"], strict=True):
        expected = tokenizer.encode(text, 24).tolist()
        assert ids == expected, text
        assert sum(mask) == expected.index(tokenizer.end) + 1
        assert mask == sorted(mask, reverse=True)
    assert found.keys() == {"input_ids", "attention_mask"}
    assert loaded.pad_token_id == tokenizer.padding


def test_a_name_of_a_special_token_that_a_word_has_is_not_taken(tmp_path: Path) -> None:
    tokenizer = train_bpe(["<|end|>"] * 9, 400)
    save_tokenizer(tokenizer, 24, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    found = loaded("<|end|>", padding="max_length", truncation=True)["input_ids"]
    assert found == tokenizer.encode("<|end|>", 24).tolist()
    assert loaded.eos_token_id == tokenizer.end


def test_a_tokenizer_that_transformers_replaces_is_refused(tmp_path: Path) -> None:
    """Of Qwen2's config it makes Qwen2's own, with that one's way to cut a text into words."""
    tokenizer = pretrained(str(folders.bert_like(tmp_path / "bert")), None)
    Qwen2Config().save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match=r"transformers makes Qwen2Tokenizer of the tokenizer .* --format safetensors"):
        save_tokenizer(tokenizer, 24, tmp_path / "model")
