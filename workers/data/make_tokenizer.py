"""Texts or a name -> a Tokenizer: trained on the job's texts, or fetched with transformers.

Runs once, before the start of a run, which keeps the result: nobody who uses a tokenizer needs this file,
the texts, the hub or transformers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from jobspecs.errors import UsageError
from workers.data.tokenize import Tokenizer, without_surrogates

_SEEN = 2
"""How often a pair must be seen to become a token: one seen once tells nothing about other texts."""


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) over bytes, as in GPT-2, learnt from `texts`.

    The 256 bytes are in it, so that any text can be written; the last three ids are begin, end and padding.
    Case is kept: a name or an abbreviation differs from the word. Texts with fewer pairs to learn give fewer
    than `vocabulary` tokens. Equal texts, in any order, give equal bytes. What `texts` raises passes through.
    """
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models, pre_tokenizers, trainers

    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    # begin, end and padding stay outside of it: no text can spell them.
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 3,
        min_frequency=_SEEN,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator((without_surrogates(text) for text in texts), trainer)
    reached = fast.get_vocab_size()
    return Tokenizer(reached + 3, begin=reached, end=reached + 1, padding=reached + 2, fast=fast.to_str())


def pretrained(name: str, revision: str | None) -> Tokenizer:
    """The tokenizer of transformers in the folder `name`, or of that name on the hub at `revision`, as
    `tandem_tokenizer` has it. None of the hub's code is ever run. Raises UsageError.
    """
    return tandem_tokenizer(load_transformers_tokenizer(name, revision), name)


def load_transformers_tokenizer(name: str, revision: str | None, subfolder: str = "") -> Any:
    """transformers' own object. subfolder: of the folder, or of what the hub has. Raises UsageError."""
    from transformers import AutoTokenizer

    path = os.path.expanduser(name)
    is_folder = os.path.isdir(path)
    if not is_folder and _is_path(name):
        named = os.path.normpath(name) if os.path.isabs(name) else name  # Tandem itself may have completed it
        raise UsageError(f"tokenizer {named}: there is no such folder. Correct `name`, or give a name on the hub")
    if is_folder and revision is not None:
        raise UsageError(
            f"tokenizer {name}: this is a folder, and folders have no revision {revision!r}. Leave `revision` out, or "
            "move the folder if the name on the hub is meant"
        )
    try:
        loaded: Any = AutoTokenizer.from_pretrained(
            path if is_folder else name, revision=revision, subfolder=subfolder, trust_remote_code=False
        )
    except Exception as error:  # OSError, ValueError, ImportError, KeyError, the tokenizers package's bare ones
        raise UsageError(_unloadable(name, is_folder, error)) from error
    if not loaded.is_fast:
        raise UsageError(
            f"tokenizer {name}: {type(loaded).__name__} is written in Python and has no fast version. Choose a "
            "tokenizer with a tokenizer.json"
        )
    return loaded


def tandem_tokenizer(loaded: Any, name: str) -> Tokenizer:
    """A tokenizer of transformers as one of Tandem's. begin is its token for the beginning of a text or, without one,
    of a class (BERT's [CLS]); end that for the end or a separator; padding its own or end. Raises UsageError: it has
    no end."""
    begin = _first(loaded.bos_token_id, loaded.cls_token_id)
    end = _first(loaded.eos_token_id, loaded.sep_token_id)
    if end is None:
        raise UsageError(
            f"tokenizer {name}: it has neither an eos_token nor a sep_token, and a text needs one to end with. Set "
            "eos_token in its tokenizer_config.json, or choose another tokenizer"
        )
    fast = loaded.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    return Tokenizer(
        vocabulary=max(fast.get_vocab().values()) + 1,  # ids may have gaps
        # One token for both, as in GPT-2's, would end each text before it begins.
        begin=None if begin == end else begin,
        end=end,
        padding=end if loaded.pad_token_id is None else loaded.pad_token_id,
        fast=fast.to_str(),
    )


def _first(*ids: int | None) -> int | None:
    return next((token for token in ids if token is not None), None)


def _is_path(name: str) -> bool:
    """Names on the hub are `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _unloadable(name: str, is_folder: bool, error: Exception) -> str:
    cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if is_folder:
        return (
            f"tokenizer {name}: the folder can't be loaded ({cause}). It needs tokenizer.json and "
            "tokenizer_config.json, as `save_pretrained` of a fast tokenizer writes them"
        )
    return (
        f"tokenizer {name}: there is no such folder, and the hub did not give it either ({cause}). Check name, "
        "revision, network and, for a gated one, HF_TOKEN; or copy the tokenizer into a folder and name that"
    )
