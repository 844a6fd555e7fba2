"""Our tokenizer -> one of transformers that gives the same ids.

    tokenizer(text, padding="max_length", truncation=True)      Tokenizer.encode(text, context_length)

Ids, padding and the place where a long text is cut are equal, and the attention mask covers the text with its begin
and end. A text can't spell the special tokens. One thing can't be said in a tokenizer.json: where a tokenizer makes
its end token of what it does not know (CLIP's does, and it knows all bytes), ours leaves these out of a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobspecs.errors import UsageError
from workers.data.tokenize import Tokenizer

_NAMES = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|padding|>"}
"""Of special tokens that have no name: those of the tokenizers that Tandem made itself."""


_PROBES = (
    "",
    "a photo of the digit seven",
    "Two  spaces,\n\ta tab; UPPER and lower: don't stop at 1,234.50!",
    "Ünïcödé ☃ 北京 😀 نص",
    " leading and trailing ",
    "longer than any context " * 200,
)


def save_tokenizer(tokenizer: Tokenizer, context_length: int, folder: Path, *, reads_padding: bool = False) -> None:
    """Writes the tokenizer into `folder`, as `AutoTokenizer` reads it, beside the config of its model. Raises
    UsageError where what it reads gives other ids."""
    from transformers import AutoTokenizer

    transformers_tokenizer(tokenizer, context_length, reads_padding=reads_padding).save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for text in _PROBES:
        ids = loaded(text, padding="max_length", truncation=True, max_length=context_length)["input_ids"]
        if ids != tokenizer.encode(text, context_length).tolist():
            raise UsageError(
                f"transformers makes {type(loaded).__name__} of the tokenizer of this model, whatever its files say, "
                f"and that gives other tokens for {text[:30]!r}. Export with --format safetensors, where the tokenizer "
                "stands in a folder of its own"
            )


def transformers_tokenizer(tokenizer: Tokenizer, context_length: int, *, reads_padding: bool = False) -> Any:
    """transformers' fast tokenizer, to be saved by its `save_pretrained`. Texts are cut to `context_length` tokens.

    reads_padding: the model sees padding as text, as SigLIP's: without an attention mask.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    fast = _bytes() if tokenizer.fast is None else _loaded(tokenizer.fast)
    ids = {"bos_token": tokenizer.begin, "eos_token": tokenizer.end, "pad_token": tokenizer.padding}
    special = {name: _named(fast, token, name) for name, token in ids.items() if token is not None}
    around = [special[name] for name in ("bos_token", "eos_token") if name in special]
    fast.post_processor = processors.TemplateProcessing(
        single=" ".join([*(f"{token}:0" for token in around[:-1]), "$A:0", f"{around[-1]}:0"]),
        special_tokens=[(token, fast.token_to_id(token)) for token in around],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        model_max_length=context_length,
        model_input_names=["input_ids"] if reads_padding else ["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        split_special_tokens=True,  # "<|end|>" in a text is seven characters
        clean_up_tokenization_spaces=False,
        **special,
    )


def _bytes() -> Any:
    """A BPE that merges nothing: the 256 bytes, in the letters that GPT-2 writes them in."""
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models, pre_tokenizers

    fast = FastTokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(_letters())}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return fast


def _letters() -> list[str]:
    """The letter of each byte in GPT-2's alphabet: itself where it prints, else the next one from 256 on."""
    prints = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def _loaded(fast: str) -> Any:
    from tokenizers import Tokenizer as FastTokenizer

    loaded = FastTokenizer.from_str(fast)
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def _named(fast: Any, token: int, name: str) -> str:
    """The text of a special token; one that stands behind the vocabulary is added, by a name that no word has."""
    from tokenizers import AddedToken

    known: str | None = fast.id_to_token(token)
    if known is not None:
        return known
    added = _NAMES[name]
    while fast.token_to_id(added) is not None:
        added = f"<{added}>"
    fast.add_special_tokens([AddedToken(added, special=True, normalized=False)])
    assert fast.token_to_id(added) == token, f"{added} is {fast.token_to_id(added)} and should be {token}"
    return added
