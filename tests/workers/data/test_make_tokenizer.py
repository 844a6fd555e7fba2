"""Training gives the same tokenizer everywhere; a pretrained one gives what transformers gives."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer

from jobspecs.errors import DataError, UsageError
from tests.workers.pretrained_folders import CAPTIONS, bert_like, clip_like, endless, gpt2_like, t5_like
from workers.data.make_tokenizer import pretrained, train_bpe
from workers.data.tokenize import Tokenizer

WORDS = "a an the photo drawing of in on red blue green Seven eight nine digit cat dog house größer 数字 🙂"


def captions(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS.split(), k=8)) + draw.choice(["", ".", "!", " (2x)"]) for _ in range(count)]


BPE = train_bpe(captions(500), 300)


def content(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens between begin and end."""
    tokens: list[int] = tokenizer.encode(text, 4 * len(text) + 3).tolist()
    return tokens[0 if tokenizer.begin is None else 1 : tokens.index(tokenizer.end)]


# --- trained ------------------------------------------------------------------------------------------


@given(st.text(max_size=60))
def test_every_text_can_be_read_back(text: str) -> None:
    tokens = content(BPE, text)
    assert BPE.fast is not None
    assert FastTokenizer.from_str(BPE.fast).decode(tokens) == text
    assert max(tokens, default=0) < BPE.vocabulary - 3


@pytest.mark.parametrize(
    ("texts", "vocabulary", "reached"),
    [
        (captions(500), 300, 300),
        (captions(500), 260, 260),
        ([], 300, 259),  # bytes, begin, end, padding
        (["abc"], 300, 259),  # pairs seen once tell nothing
        (["abc", "abc"], 300, 261),
    ],
)
def test_the_vocabulary_is_as_asked_for_or_what_the_texts_give(texts: list[str], vocabulary: int, reached: int) -> None:
    tokenizer = train_bpe(texts, vocabulary)
    assert tokenizer.vocabulary == reached
    assert (tokenizer.begin, tokenizer.end, tokenizer.padding) == (reached - 3, reached - 2, reached - 1)


def test_frequent_words_are_one_token_and_case_is_kept() -> None:
    tokenizer = train_bpe(captions(500), 400)
    lengths = {text: len(content(tokenizer, text)) for text in (" photo", " Seven", " seven", " größer")}
    assert (lengths[" photo"], lengths[" Seven"], lengths[" größer"]) == (1, 1, 1)
    assert lengths[" seven"] > 1  # never seen so


def test_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever the number of threads, the seed of Python's hashes and the order of the texts."""
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys\n"
        "from workers.data.make_tokenizer import train_bpe\n"
        "print(train_bpe(json.load(sys.stdin), 400).fingerprint())\n"
    )
    texts = captions(3000)
    seen = set()
    for seed, parallel in (("1", "true"), ("2", "false"), ("3", "true")):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "TOKENIZERS_PARALLELISM": parallel,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, script],
            input=json.dumps(texts),
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout.strip())
        texts.reverse()
    assert seen == {train_bpe(texts, 400).fingerprint()}


def test_half_a_surrogate_pair_is_trained_as_a_question_mark() -> None:
    assert train_bpe(["a\ud83d", "a\ud83d"], 300) == train_bpe(["a?", "a?"], 300)


def test_what_the_texts_raise_passes_through() -> None:
    def texts() -> Iterator[str]:
        yield from CAPTIONS
        raise DataError("a shard is gone")

    with pytest.raises(DataError, match="a shard is gone"):
        train_bpe(texts(), 300)


# --- pretrained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "ids"),
    [
        (clip_like, (300, 0, 1, 1)),
        (bert_like, (80, 3, 2, 0)),
        (t5_like, (31, None, 1, 0)),
        (gpt2_like, (10, None, 9, 9)),  # one token for begin and end would end each text at its beginning
    ],
)
def test_the_special_tokens(make: Callable[[Path], Path], ids: tuple[int | None, ...], tmp_path: Path) -> None:
    tokenizer = pretrained(str(make(tmp_path)), None)
    assert (tokenizer.vocabulary, tokenizer.begin, tokenizer.end, tokenizer.padding) == ids


@pytest.mark.parametrize("make", [clip_like, bert_like, t5_like])
def test_the_tokens_are_those_of_transformers(make: Callable[[Path], Path], tmp_path: Path) -> None:
    tokenizer = pretrained(str(make(tmp_path)), None)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    texts = [*CAPTIONS[:3], "", "A PHOTO\nof  ü", "one " * 30]
    expected = theirs(texts, truncation=True, padding="max_length", max_length=12).input_ids
    assert [tokenizer.encode(text, 12).tolist() for text in texts] == expected
    assert Tokenizer.from_bytes(tokenizer.to_bytes()) == tokenizer


@pytest.mark.parametrize("make", [clip_like, bert_like, t5_like, gpt2_like])
def test_a_caption_that_spells_special_tokens_does_not_end_there(make: Callable[[Path], Path], tmp_path: Path) -> None:
    tokenizer = pretrained(str(make(tmp_path)), None)
    tokens = content(tokenizer, "a <|endoftext|> photo </s> of [SEP] [CLS] <|startoftext|> zero")
    assert tokens[:1] == content(tokenizer, "a")[:1]
    assert tokens[-1] == content(tokenizer, "a zero")[-1]
    assert tokenizer.begin not in tokens


def test_neither_transformers_nor_torch_is_needed_to_encode(tmp_path: Path) -> None:
    tokenizer = pretrained(str(clip_like(tmp_path)), None)
    script = (
        "import pickle, sys; tokens = pickle.load(sys.stdin.buffer).encode('a photo', 9).tolist();"
        "assert not {'torch', 'transformers'} & sys.modules.keys(); print(tokens)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        input=pickle.dumps(tokenizer),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == tokenizer.encode("a photo", 9).tolist()
    assert done.stderr == b""


def folder(path: Path, **files: object) -> str:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: "./nowhere", r"^tokenizer ./nowhere: there is no such folder\. Correct `name`"),
        (lambda path: str(path / "nowhere"), "there is no such folder"),
        (lambda path: "~no-such-user/x", "there is no such folder"),
        (lambda path: folder(path), "the folder can't be loaded .*needs tokenizer.json and tokenizer_config.json"),
        (lambda path: folder(path, tokenizer_config={}, tokenizer='{"a": 1'), "the folder can't be loaded"),
        (
            lambda path: folder(path, tokenizer_config={"tokenizer_class": "ByT5Tokenizer"}),
            "ByT5Tokenizer is written in Python and has no fast version. Choose a tokenizer with a tokenizer.json",
        ),
        (lambda path: str(endless(path)), "neither an eos_token nor a sep_token.*Set eos_token"),
    ],
)
def test_what_cannot_be_used_is_named(make: Callable[[Path], str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        pretrained(make(tmp_path), None)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folders have no revision 'main'\. Leave `revision` out"):
        pretrained(str(clip_like(tmp_path)), "main")


def test_code_in_a_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    config = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    with pytest.raises(UsageError, match=r"the folder can't be loaded .*custom code"):
        pretrained(folder(tmp_path, tokenizer_config=config), None)


def test_without_the_hub_the_remedy_is_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"someone/something: there is no such folder, and the hub .*copy the token"):
        pretrained("someone/something", "0123abc")
