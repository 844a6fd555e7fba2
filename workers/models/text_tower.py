"""Tokens -> features, with any text architecture of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jobspecs.columns import Text
from jobspecs.errors import UsageError
from workers.data.tokenize import Tokenizer
from workers.models.architecture import Architecture
from workers.models.pooling import pool_text
from workers.models.tower import Inputs, Tower

_READS_PADDING = "siglip"
"""Its models were trained without an attention mask: padding is text to them."""


class TextTower(Tower):
    """Integers (n, T). A text ends with its first `end`; what stands behind counts for nothing. A row without one
    (a masked row) gives some feature."""

    def __init__(self, network: nn.Module, tokenizer: Tokenizer) -> None:
        super().__init__(network)
        self.end, self.padding = tokenizer.end, tokenizer.padding
        self.pooling = "own"
        self.reads_padding = False
        self.mixes_places = False

    def pool_as(self, other: Tower) -> None:
        """Pools as another tower of this kind."""
        assert isinstance(other, TextTower)
        self.pooling, self.reads_padding, self.mixes_places = other.pooling, other.reads_padding, other.mixes_places

    def output(self, inputs: Inputs) -> Any:
        """What transformers' network gives."""
        tokens = inputs["tokens"].long()
        text = torch.arange(tokens.shape[1], device=tokens.device) <= self._last(tokens)[:, None]
        mask = None if self.reads_padding else text.long()
        return self.network(input_ids=torch.where(text, tokens, self.padding), attention_mask=mask)

    def pooled(self, inputs: Inputs) -> Tensor:
        """(n, w)."""
        return pool_text(self.output(inputs), self.pooling, self._last(inputs["tokens"]))

    def shortened(self, inputs: Inputs) -> Inputs:
        """Without the places behind the longest text: a context of 512 tokens costs twenty times as much as texts of 25
        do. Not where padding is text to the network, nor where it reaches the text past the mask, as by ConvBERT's
        convolutions: then an embedding would depend on the longest text beside it."""
        tokens = inputs["tokens"]
        if self.reads_padding or self.mixes_places or not len(tokens):
            return inputs
        return {"tokens": tokens[:, : int(self._last(tokens).max()) + 1]}

    def _last(self, tokens: Tensor) -> Tensor:
        """(n,) the places of the tokens that end the texts."""
        return (tokens == self.end).int().argmax(dim=1)


def fit_to_texts(architecture: Architecture, text: Text, tokenizer: Tokenizer, side: str) -> None:
    """An architecture from scratch gets the tokenizer's vocabulary and a position for each token; a checkpoint is
    held to them. `side` is the section of `data:`. Raises UsageError."""
    config = architecture.config
    if architecture.folder is None:
        config.vocab_size = tokenizer.vocabulary
        for name, token in (("pad", tokenizer.padding), ("bos", tokenizer.begin), ("eos", tokenizer.end)):
            if hasattr(config, f"{name}_token_id"):
                setattr(config, f"{name}_token_id", token)
        settings = getattr(architecture.section, "settings", {})
        if "max_position_embeddings" not in settings and hasattr(config, "max_position_embeddings"):
            config.max_position_embeddings = (
                tokenizer.vocabulary + text.context_length
            )  # room for any that are reserved
            config.max_position_embeddings = text.context_length + _reserved_positions(architecture.skeleton()[0])
    else:
        known = config.vocab_size
        # Embeddings are often padded to a round number of rows: Qwen2's by 0.2 %.
        if not 0 <= known - tokenizer.vocabulary <= known // 100:
            raise UsageError(
                f"{architecture.place}: {architecture.name} knows {known} tokens, the tokenizer of data.{side} "
                f"has {tokenizer.vocabulary}. Give it the tokenizer of the checkpoint"
            )
    positions = positions_of(architecture)
    if positions is not None and text.context_length > positions:
        raise UsageError(
            f"data.{side}.context_length: {text.context_length} tokens a text, and "
            f"{architecture.name} of {architecture.place} has {positions} positions. Shorten it"
        )


def positions_of(architecture: Architecture) -> int | None:
    """How many tokens of a text an architecture has learnt positions for, None where it has no such bound."""
    positions: int | None = getattr(architecture.config, "max_position_embeddings", None)
    return None if positions is None else positions - _reserved_positions(architecture.skeleton()[0])


def _reserved_positions(network: nn.Module) -> int:
    """Positions that no token takes: RoBERTa and its kin count from the padding's id plus one."""
    reserved = [
        module.padding_idx + 1
        for name, module in network.named_modules()
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None
    ]
    return max(reserved, default=0)


def choose_pooling(
    tower: TextTower, asked: str, output: Any, architecture: Architecture, *, mixes_places: bool
) -> None:
    """Chooses the pooling, given what the network gives, and whether places meet in it otherwise than by attention.
    Raises UsageError where it can't pool as asked."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_TEXT_ENCODING_MAPPING,
    )

    config = type(architecture.config)
    pads = architecture.config.model_type.startswith(_READS_PADDING)
    ends = hasattr(tower.network, "eos_token_id")  # CLIP: its own pooling is the end token
    if asked == "auto":
        asked = _sentence_transformers(architecture) or "auto"
    if asked == "auto":
        encodes = config in MODEL_FOR_TEXT_ENCODING_MAPPING or config in MODEL_FOR_MASKED_LM_MAPPING
        causal = config in MODEL_FOR_CAUSAL_LM_MAPPING and not encodes
        asked = "own" if pads else "last" if ends or causal else "mean"
    if asked == "own" and ends:
        asked = "last"  # picked by us: transformers takes another token where `end` happens to be 2
    if asked == "own" and getattr(output, "pooler_output", None) is None:
        raise UsageError(f"{architecture.place}.pooling: {architecture.name} does not pool. Choose cls, mean or last")
    tower.pooling = asked
    tower.reads_padding = pads and asked == "own"
    tower.mixes_places = mixes_places


_POOLINGS = ("cls", "mean", "last")


def _sentence_transformers(architecture: Architecture) -> str | None:
    """The pooling of a folder in sentence-transformers' layout, None for another one."""
    names = None if architecture.modules is None else architecture.modules.poolings
    if names is None:
        return None
    if len(names) != 1 or names[0] not in _POOLINGS:
        raise UsageError(
            f"{architecture.place}.pooling: {architecture.name} pools by {', '.join(names) or 'nothing'}, "
            "which is not one of cls, mean and last. Choose one"
        )
    return names[0]
