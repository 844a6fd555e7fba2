"""Texts as the authors of a model prepare them: tokenizer, context length, and the prompt before each text.

Prompts and lengths are those of sentence-transformers (`config_sentence_transformers.json`,
`sentence_bert_config.json`); a folder of transformers has no prompts, and as many tokens as its tokenizer says, or as
the network has positions for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobspecs.columns import PretrainedTokenizer, Text
from jobspecs.errors import UsageError
from workers.data.make_tokenizer import load_transformers_tokenizer, tandem_tokenizer
from workers.data.tokenize import Tokenizer
from workers.models.architecture import Architecture
from workers.models.model_files import ModelFiles
from workers.models.text_tower import positions_of

_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus"), "text": ()}
"""Names of prompts of each side, in the order in which the library looks for them."""
_UNBOUNDED = 10**6
"""transformers says so where a tokenizer has no limit: 1e30."""
_PROBES = ("a photo of the digit seven", "Where does it end?", "longer than any context " * 2000)


@dataclass(frozen=True)
class PreparedTexts:
    """What texts of a side go through."""

    section: Text
    """The spec's, for this model."""
    tokenizer: Tokenizer


def prepared_texts(files: ModelFiles, architecture: Architecture, side: str, section: Text) -> PreparedTexts:
    """`section` is the spec's, of the column `side`. Raises UsageError: no tokenizer, or one that ours can't stand
    for; OSError, ValueError: files that can't be read."""
    subfolder = "" if architecture.modules is None else architecture.modules.network
    settings = _settings(files, f"{subfolder}/sentence_bert_config.json".lstrip("/"))
    loaded = load_transformers_tokenizer(files.name, files.revision, subfolder)
    tokenizer = tandem_tokenizer(loaded, files.name)
    limits = (settings.get(f"{side}_length") or settings.get("max_seq_length"), loaded.model_max_length)
    known = [limit for limit in (*limits, positions_of(architecture)) if limit is not None and limit < _UNBOUNDED]
    length = min(known, default=section.context_length)
    _check_tokens(loaded, tokenizer, length, files.name)
    if settings.get("do_lower_case") and _ids(loaded, "A Photo", length) != _ids(loaded, "a photo", length):
        raise UsageError(
            f"{files.name}: sentence_bert_config.json asks for lower case, which its tokenizer does not make, and ours "
            "neither. Choose another model"
        )
    prefix = _prompt(_settings(files, "config_sentence_transformers.json"), side)
    if prefix and architecture.modules is not None and not architecture.modules.pools_prompts:
        raise UsageError(
            f"{files.name}: it leaves the prompt {prefix!r} out when it pools, and the towers here pool the whole "
            "text. Choose another model"
        )
    update = {
        "tokenizer": PretrainedTokenizer(kind="pretrained", name=files.name, revision=files.revision),
        "context_length": length,
        "prefix": prefix,
    }
    return PreparedTexts(section.model_copy(update=update), tokenizer)


def check_similarity(files: ModelFiles, normalizes: bool) -> None:
    """Raises UsageError for a model whose features are meant to be compared otherwise than by cosine."""
    stated = _settings(files, "config_sentence_transformers.json").get("similarity_fn_name")
    if stated not in (None, "cosine") and not normalizes:
        raise UsageError(
            f"{files.name}: its embeddings are to be compared by {stated!r} (config_sentence_transformers.json), and "
            "evaluations compare by cosine. Choose another model"
        )


def _settings(files: ModelFiles, file: str) -> dict[str, Any]:
    found = files.json(file)
    return found if isinstance(found, dict) else {}


def _prompt(settings: dict[str, Any], side: str) -> str:
    prompts = settings.get("prompts") or {}
    names = [name for name in (*_PROMPTS[side], settings.get("default_prompt_name")) if name in prompts]
    return str(prompts[names[0]]) if names else ""


def _check_tokens(loaded: Any, tokenizer: Tokenizer, length: int, name: str) -> None:
    """Raises UsageError where the authors' tokenizer gives other tokens than ours makes of it."""
    for text in _PROBES:
        own = tokenizer.encode(text, length).tolist()
        expected, found = _ids(loaded, text, length), own[: own.index(tokenizer.end) + 1]
        if found != expected:
            raise UsageError(
                f"{name}: its tokenizer puts other tokens around a text than one that begins and one that ends it, or "
                f"cuts it elsewhere ({expected[:2]} … {expected[-2:]}, not {found[:2]} … {found[-2:]}). Choose another "
                "model"
            )


def _ids(loaded: Any, text: str, length: int) -> list[int]:
    ids: list[int] = loaded(text, truncation=True, max_length=length)["input_ids"]
    return ids
