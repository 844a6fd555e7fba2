"""Folders such as `save_pretrained` writes them, with tokenizers as they are met on the hub, but tiny."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CAPTIONS = ["a photo of the digit seven", "a scan of the number nine", "handwritten zero, a photo of it!"] * 3


def clip_like(folder: Path) -> Path:
    """Lower case, bytes, padded with the end token (as openai/clip-vit-base-patch32)."""
    fast = Tokenizer(models.BPE(unk_token="<|endoftext|>"))
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([text.lower() for text in CAPTIONS], trainer)
    fast.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A {special[1]}", special_tokens=[(token, fast.token_to_id(token)) for token in special]
    )
    begin, end = special
    return _saved(folder, fast, bos_token=begin, eos_token=end, unk_token=end, pad_token=end, model_max_length=77)


def bert_like(folder: Path) -> Path:
    """WordPiece between [CLS] and [SEP] (as bert-base-uncased); the file asks for truncation and padding."""
    fast = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[SEP]", "[CLS]", "[MASK]"]  # [SEP] is 2
    fast.train_from_iterator(
        CAPTIONS, trainers.WordPieceTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    )
    fast.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 3))
    fast.enable_truncation(4)
    fast.enable_padding(length=9)
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    return _saved(folder, fast, **names)


def t5_like(folder: Path) -> Path:
    """Unigram with an end and no beginning (as t5-small); "</s>" is a piece of it."""
    fast = Tokenizer(models.Unigram())
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    fast.train_from_iterator(CAPTIONS, trainer)
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _saved(folder, fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def gpt2_like(folder: Path) -> Path:
    """One token for beginning and end, none for padding (as gpt2); an id is left out before it."""
    fast = Tokenizer(models.WordLevel({"a": 0, "photo": 1, "?": 2, "<|endoftext|>": 9}, unk_token="?"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    token = "<|endoftext|>"
    return _saved(folder, fast, bos_token=token, eos_token=token)


def endless(folder: Path) -> Path:
    """Without any special token."""
    fast = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    return _saved(folder, fast)


def _saved(folder: Path, fast: Tokenizer, **special: object) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained(folder)
    return folder
