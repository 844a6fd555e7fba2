"""What was seen in tars -> a spec that fits them, with the reasons beside the fields.

Pure: a `Look`, the shards' names and their number of samples go in, YAML comes out. It is meant to be changed; what it
says is valid, and can be planned and run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from jobspecs.environment import escape
from jobspecs.errors import DataError, SpecError
from jobspecs.load import loads
from workers.data.look import Column, Look
from workers.data.order import auto_lanes

_USUAL = 0.5
"""Share of the samples that have a column which is worth naming."""
_LARGE = 200_000
"""Samples from which towers of published size are worth their time."""
_BYTES = 128
"""The longest context of bytes; longer texts are read by the token."""
_BYTES_PER_TOKEN = 3
"""Of a small vocabulary, about."""
_CAPTIONS = ("caption", "captions", "text", "title", "alt", "alt_text", "description", "prompt")
_QUERIES = ("query", "question", "anchor", "sentence1")
_DOCUMENTS = ("document", "answer", "passage", "positive", "context", "sentence2")


@dataclass(frozen=True)
class Shards:
    """Which tars to train on, and which to keep for the evaluation."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    """Empty where the objective has no pairs to retrieve."""


@dataclass(frozen=True)
class Counted:
    """How many samples there are."""

    samples: int
    """Those to train on."""
    is_exact: bool


def draft(name: str, shards: Shards, counted: Counted, seen: Look, endpoint: str | None = None) -> str:
    """The text of a spec. endpoint: where the tars are, if not at AWS's.

    Raises DataError: nothing in the samples can be contrasted, or the text is no spec.
    """
    text = _text_of(name, shards, counted, seen, endpoint)
    try:
        loads(text, f"the spec of {name}", environment={})
    except SpecError as error:
        raise DataError(
            f"no spec can be drafted for {', '.join(map(_shown, shards.train))}, as what is named there does not fit "
            f"into one: {error}\nRename it, or write the spec by hand: `tandem init` has examples."
        ) from error
    return text


def _text_of(name: str, shards: Shards, counted: Counted, seen: Look, endpoint: str | None) -> str:
    """Raises DataError."""
    large = counted.samples >= _LARGE
    kind, columns = kind_of(seen), _columns(seen, large)
    towers = _image_tower(seen, large) if "image" in columns else ""
    towers += "" if kind == "two_view" else _text_tower(large)
    ranks = auto_lanes(_batch(counted.samples, large))
    lines = [
        f"# A first spec for {', '.join(map(_shown, shards.train))}, made by looking at {seen.samples} samples:",
        f"#   {_found(seen)}",
        "# Look it over, then: tandem plan, tandem run.",
        "apiVersion: tandem/v1",
        f"name: {_scalar(name)}",
        "seed: 0",
        "",
        f"objective: {{kind: {kind}}}",
        "",
        "data:",
        f"  sources: [{{name: {_scalar(name)}, urls: {_list(shards.train)}}}]",
        *(f"  {column}: {text}" for column, text in columns.items()),
        "",
        "model:",
        *towers.splitlines(),
        f"  embedding_dim: {512 if large else 128}",
        "",
        *_training(counted, large),
        "",
        f"cluster: {{workers: 1}}  # ranks; up to {ranks} give the same batches and losses",
        *([] if endpoint is None else [f"storage: {{s3: {{endpoint: {_quoted(endpoint)}}}}}"]),
        *_evaluations(shards),
    ]
    return "\n".join(lines) + "\n"


def kind_of(seen: Look) -> str:
    """The objective that the samples are for; `two_view` where they have neither a pair of texts nor a caption."""
    if _pair(seen) is not None:
        return "text_text"
    return "two_view" if _caption(seen) is None else "image_text"


def name_of(url: str) -> str:
    """A job's name out of the folder that the tars are in."""
    parts = [part for part in re.split(r"[/\\]", url.rpartition("/")[0]) if part.strip(".") and ":" not in part]
    usual = [part for part in parts if part.lower() not in ("train", "training", "shards", "data")] or parts
    word = re.sub(r"[^a-z0-9]+", "-", usual[-1].lower()).strip("-") if usual else ""
    return word[:60].strip("-") or "my-job"


def split(names: Sequence[str], given: Sequence[str]) -> Shards:
    """The last of several shards is held out. `names` are all of them, `given` the patterns that name them; where the
    rest would be a list too long to be read, none is held out."""
    if len(names) < 2:
        return Shards(tuple(given), ())
    train = _braced(names[:-1])
    return Shards(tuple(given), ()) if len(train) > 16 else Shards(tuple(train), (names[-1],))


def _braced(names: Sequence[str]) -> list[str]:
    """`a/{00000..00041}.tar` where that is what they are, else themselves."""
    found = [re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", name) for name in names]
    matches = [match for match in found if match]
    if len(matches) < max(2, len(names)) or len({(match[1], match[3], len(match[2])) for match in matches}) > 1:
        return list(names)
    numbers = [int(match[2]) for match in matches]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return list(names)
    first, last = matches[0], matches[-1]
    return [f"{first[1]}{{{first[2]}..{last[2]}}}{first[3]}"]


# --- what others have named ---------------------------------------------------------------------------


def _scalar(text: str) -> str:
    """`text` in YAML, without quotes where it can be nothing but text."""
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.;-]*", text) and text not in ("true", "false", "null")
    return text if is_plain else _quoted(text)


def _quoted(text: str) -> str:
    """`text` in quotes, with YAML's escapes: JSON's of a rare character are two halves, which YAML does not join."""
    line: str = yaml.safe_dump(escape(text), default_style='"', width=math.inf, allow_unicode=True)
    return line.rstrip("\n")


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_quoted, texts))}]"


def _shown(text: str) -> str:
    """`text` in a comment, which it can't end."""
    return text if text.isprintable() else json.dumps(text)


# --- columns ------------------------------------------------------------------------------------------


def _columns(seen: Look, large: bool) -> dict[str, str]:
    """Sections of `data:` as text, by name. Raises DataError."""
    pair = _pair(seen)
    if pair is not None:
        names = ("query", "document")
        longest = max(column.length for _, _, column in pair)  # they share a tower, and so a tokenizer
        columns = {name: _text(*place, longest, large) for name, place in zip(names, pair, strict=True)}
        negatives = seen.lists.get("negatives.json")
        if negatives is not None and _is_usual(negatives, seen):
            columns["negatives"] = "{count: 1}"
        return columns
    usual = [extension for extension, column in seen.images.items() if column.seen >= seen.samples * 0.05]
    if sum(seen.images[extension].seen for extension in usual) < seen.samples * _USUAL:
        raise DataError(
            f"{seen.samples} samples were looked at, and most have neither an image nor a query with its document: "
            f"{_found(seen)}. A sample needs an image (jpg, png, webp), best with a text (txt, or a caption in json), "
            "or query.txt and document.txt; or write the spec by hand: `tandem init` has examples."
        )
    order = sorted(usual, key=lambda extension: -seen.images[extension].seen)
    place = _caption(seen)
    views = "" if place else ", views: 2, crop_scale: [0.2, 1.0], flip: 0.5, color: {}"
    columns = {"image": f"{{column: {_scalar(';'.join(order))}, size: {_size(seen, large)}{views}}}"}
    return columns if place is None else columns | {"text": _text(*place, place[2].length, large)}


def _pair(seen: Look) -> tuple[tuple[str, str | None, Column], tuple[str, str | None, Column]] | None:
    """Where a query and its document stand: extension, field, what was seen."""
    texts = {name: column for name, column in seen.texts.items() if _is_usual(column, seen)}
    if "query.txt" in texts and "document.txt" in texts:
        return ("query.txt", None, texts["query.txt"]), ("document.txt", None, texts["document.txt"])
    for extension, fields in seen.fields.items():
        query = next((name for name in _QUERIES if name in fields and _is_usual(fields[name], seen)), None)
        document = next((name for name in _DOCUMENTS if name in fields and _is_usual(fields[name], seen)), None)
        if query and document:
            return (extension, query, fields[query]), (extension, document, fields[document])
    return None


def _caption(seen: Look) -> tuple[str, str | None, Column] | None:
    texts = [(extension, column) for extension, column in seen.texts.items() if _is_usual(column, seen)]
    if texts:
        extension, column = max(texts, key=lambda each: (each[0] == "txt", each[1].seen))
        return extension, None, column
    for extension, fields in seen.fields.items():
        for name in _CAPTIONS:
            if name in fields and _is_usual(fields[name], seen):
                return extension, name, fields[name]
    return None


def _is_usual(column: Column, seen: Look) -> bool:
    return column.seen >= seen.samples * _USUAL


def _text(extension: str, name: str | None, column: Column, longest: int, large: bool) -> str:
    """`longest` is the length of the texts that share the tokenizer."""
    place = f"column: {_scalar(extension)}" + (f", field: {_scalar(name)}" if name else "")
    if not large and longest + 2 <= _BYTES:
        return f"{{{place}, context_length: {_context(column.length)}}}  # in bytes; 95 % have at most {column.length}"
    tokenizer = "{kind: bpe}" if large else "{kind: bpe, vocabulary: 4096}"
    length = 77 if large else min(256, _context(column.length // _BYTES_PER_TOKEN))
    return f"{{{place}, tokenizer: {tokenizer}, context_length: {length}}}  # 95 % have at most {column.length} bytes"


def _context(length: int) -> int:
    """Room for a text of that length, its begin and its end."""
    return max(16, math.ceil((length + 2) / 8) * 8)


def _size(seen: Look, large: bool) -> int:
    side = max(column.side for column in seen.images.values())
    return 224 if large else max(32, min(224, side) // 32 * 32)


def _found(seen: Look) -> str:
    columns = [
        f"{_shown(name)} ({count / max(1, seen.samples):.0%})" for name, count in sorted(seen.extensions.items())
    ]
    fields = [_shown(f"{ext}:{name}") for ext, names in sorted(seen.fields.items()) for name in sorted(names)]
    sides = [side for column in seen.images.values() for side in column.sides]
    sizes = f"; images {min(sides)[0]}x{min(sides)[1]} to {max(sides)[0]}x{max(sides)[1]}" if sides else ""
    return f"{', '.join(columns) or 'no member'}{'; texts in ' + ', '.join(fields[:8]) if fields else ''}{sizes}"


# --- the rest -----------------------------------------------------------------------------------------


def _image_tower(seen: Look, large: bool) -> str:
    if large:
        return "  image: {kind: preset, name: ViT-B/32}\n"
    patch = _size(seen, large) // 8
    return f"  image: {{kind: transformer, width: 192, layers: 4, heads: 3, patch: {patch}}}\n"


def _text_tower(large: bool) -> str:
    if large:
        return "  text: {kind: preset, name: ViT-B/32}\n"
    return "  text: {kind: transformer, width: 128, layers: 3, heads: 4}\n"


def _training(counted: Counted, large: bool) -> list[str]:
    samples = counted.samples
    batch, fitting = _batch(samples, large), _fitting(samples)
    larger = [size for size in (1024, 4096, 16_384, 32_768) if batch < size <= fitting]
    passes = min(100, max(3, math.ceil((12_800_000 if large else 100_000) / samples)))
    steps = max(1, samples // batch) * passes
    about = "" if counted.is_exact else "about "
    more = f"; on GPUs try {' or '.join(f'{size:,}' for size in larger)}" if larger else ""
    rate = 5e-4 if large else 1e-3
    return [
        "training:",
        f"  global_batch: {batch}  # each sample is contrasted with all others of its batch{more}",
        f"  passes: {passes}  # over {about}{samples:,} samples: {about}{steps:,} steps",
        f"  precision: {'bf16' if large else 'fp32'}",
        f"  optimizer: {{kind: adamw, learning_rate: {rate}, weight_decay: 0.1}}",
        f"  schedule: {{kind: cosine, warmup_steps: {max(1, steps // 10)}}}",
    ]


def _batch(samples: int, large: bool) -> int:
    return min(4096 if large else 256, _fitting(samples), samples)


def _fitting(samples: int) -> int:
    """The largest batch of which a pass has eight, a power of two."""
    return max(2, 1 << max(1, (samples // 8)).bit_length() - 1)


def _evaluations(shards: Shards) -> list[str]:
    if not shards.held_out:
        return []
    return [
        "",
        "evaluations:",
        "  - kind: retrieval",
        "    name: held-out",
        f"    data: {{urls: {_list(shards.held_out)}}}  # training does not see it",
    ]
