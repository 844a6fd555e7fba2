"""Tars that nobody has described -> a spec that fits them: what is seen, what is made of it, and that it is right."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import boto3
import pytest
from PIL import Image

from jobspecs.errors import DataError
from jobspecs.job import JobSpec
from jobspecs.load import loads
from jobspecs.retry import Retry
from jobspecs.storage import S3
from orchestrator import from_shards
from orchestrator.draft import Counted, Shards, draft, name_of, split
from orchestrator.from_shards import spec_for
from tests.workers.data.tars import tar_of
from workers.data.look import Column, Look
from workers.storage import Storage


def image(side: int, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side + 3), (side % 256, 9, 7)).save(out, kind)
    return out.getvalue()


CAPTIONED = {"jpg": image(40), "txt": b"a cat"}


def as_json(**fields: str) -> bytes:
    return json.dumps(fields).encode()


def write(folder: Path, shards: int, samples: int, members: Callable[[int], dict[str, bytes]]) -> None:
    """Tars of `samples` samples each, whose members by extension `members(number)` gives."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        numbers = range(shard * samples, (shard + 1) * samples)
        tar = tar_of([(f"{n:09}.{extension}", content) for n in numbers for extension, content in members(n).items()])
        (folder / f"{shard:05}.tar").write_bytes(tar)


def made(folder: Path, *urls: str) -> tuple[str, JobSpec]:
    text = spec_for(urls or (str(folder),), S3())
    return text, loads(text)


def test_images_with_captions(tmp_path: Path) -> None:
    folder = tmp_path / "cats" / "train"
    write(folder, 3, 50, lambda n: {"jpg": image(100 + n), "txt": b"a cat on a mat" + b"!" * (n % 10)})
    text, spec = made(folder)
    assert (spec.name, spec.objective.kind) == ("cats", "image_text")
    assert spec.data.sources[0].urls == [f"{folder}/{{00000..00001}}.tar"]
    assert spec.evaluations[0].data.urls == [f"{folder}/00002.tar"]
    assert spec.data.image is not None
    assert spec.data.text is not None
    assert (spec.data.image.column, spec.data.image.size, spec.data.text.context_length) == ("jpg", 160, 32)
    assert (spec.training.global_batch, spec.training.passes) == (8, 100)
    assert "over 100 samples: 1,200 steps" in text, "counted, though no file beside the tars says it"


def test_captions_in_json_and_two_kinds_of_images(tmp_path: Path) -> None:
    def members(number: int) -> dict[str, bytes]:
        kind = "png" if number % 3 == 0 else "jpg"
        described = {"url": "http://x", "meta": {"caption": ["one", "two"]}, "width": 3, "": "x", "a b": "y"}
        return {kind: image(40, "PNG" if kind == "png" else "JPEG"), "json": json.dumps(described).encode()}

    write(tmp_path / "a", 1, 30, members)
    text, spec = made(tmp_path / "a", f"{tmp_path}/a/00000.tar")
    assert spec.data.image is not None
    assert spec.data.text is None, "a field below another is not taken for a caption"
    assert spec.data.image.column == "jpg;png"
    assert "json:meta.caption" in text
    assert spec.objective.kind == "two_view"
    assert spec.evaluations == []


def test_images_alone_all_train(tmp_path: Path) -> None:
    write(tmp_path / "a", 3, 20, lambda n: {"jpg": image(40)})
    text, spec = made(tmp_path / "a")
    assert (spec.objective.kind, spec.evaluations) == ("two_view", [])
    assert spec.data.sources[0].urls == [f"{tmp_path}/a/*.tar"], "a shard that is held out would be of no use"
    assert "over 60 samples" in text


def test_a_caption_in_json(tmp_path: Path) -> None:
    write(
        tmp_path / "a", 1, 20, lambda n: {"webp": image(40, "WEBP"), "json": json.dumps({"caption": "x" * n}).encode()}
    )
    _, spec = made(tmp_path / "a")
    assert spec.data.text is not None
    assert (spec.data.text.column, spec.data.text.field) == ("json", "caption")
    assert spec.data.sources[0].urls == [f"{tmp_path}/a/*.tar"], "one shard: none is held out"


def test_pairs_of_texts(tmp_path: Path) -> None:
    write(
        tmp_path / "qa",
        2,
        40,
        lambda n: {"json": json.dumps({"question": f"why {n}?", "answer": "so " * 200}).encode()},
    )
    _, spec = made(tmp_path / "qa")
    assert spec.objective.kind == "text_text"
    assert spec.data.query is not None
    assert spec.data.document is not None
    assert (spec.data.query.field, spec.data.document.field) == ("question", "answer")
    assert spec.data.query.tokenizer == spec.data.document.tokenizer
    assert (spec.data.document.tokenizer.kind, spec.data.document.context_length) == ("bpe", 208)


def test_damaged_images_are_none_and_binary_texts_neither(tmp_path: Path) -> None:
    write(tmp_path / "a", 1, 20, lambda n: {"jpg": b"no image", "txt": b"\xff\xfe"})
    message = (
        r"20 samples were looked at, and most have neither an image nor .*: jpg \(100%\), txt \(100%\)\. A sample "
    )
    with pytest.raises(DataError, match=message):
        made(tmp_path / "a")


@pytest.mark.parametrize(
    ("samples", "message"), [(0, "no sample in the tars that were looked at"), (1, "there are 1 samples to train on")]
)
def test_too_few_samples(tmp_path: Path, samples: int, message: str) -> None:
    write(tmp_path / "a", 1, samples, lambda n: {"jpg": image(40)})
    with pytest.raises(DataError, match=message):
        made(tmp_path / "a")


def test_a_tar_that_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "a", 1, 5, lambda n: {"jpg": image(40)})
    path = tmp_path / "a" / "00000.tar"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"00000\.tar: truncated"):
        made(tmp_path / "a")


def compressed(folder: Path, samples: Sequence[int]) -> int:
    """Shards that can't be counted in part; comes out: the bytes of all."""
    folder.mkdir()
    for shard, count in enumerate(samples):
        noise = random.Random(shard)  # compresses badly, as photos do
        members = [(f"{shard}-{n:05}.jpg", image(40) + noise.randbytes(1000)) for n in range(count)]
        (folder / f"{shard:05}.tar.gz").write_bytes(gzip.compress(tar_of(members)))
    return sum(path.stat().st_size for path in folder.iterdir())


def test_of_many_compressed_tars_a_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = compressed(tmp_path / "a", [70] * 6 + [0])
    monkeypatch.setattr(from_shards, "_READ_BYTES", size // 2)
    read: list[str] = []
    scan = from_shards.scan_shard
    monkeypatch.setattr(from_shards, "scan_shard", lambda shard, *rest: read.append(shard.uri) or scan(shard, *rest))
    text, spec = made(tmp_path / "a", f"{tmp_path}/a/*.tar.gz")
    assert 400 < int(re.search(r"over about (\d+) samples", text)[1]) < 440
    assert 0 < len(read) <= 3
    assert spec.objective.kind == "two_view"


def test_compressed_tars_that_are_too_large_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressed(tmp_path / "a", [3, 3])
    monkeypatch.setattr(from_shards, "_READ_BYTES", 100)
    message = r"in 2 shards such as file:.*00000\.tar\.gz takes reading one whole, .* have `tandem index` count these"
    with pytest.raises(DataError, match=message):
        made(tmp_path / "a", f"{tmp_path}/a/*.tar.gz")


def test_a_folder_without_tars(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/*.tar matches nothing")):
        made(tmp_path)


def test_the_endpoint_that_the_tars_are_reached_by_stays_in_the_spec(s3_server: str) -> None:
    s3 = S3(endpoint=s3_server)
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="drafts")
    tar = tar_of([(f"{n}.{extension}", content) for n in range(20) for extension, content in CAPTIONED.items()])
    Storage(s3).write("s3://drafts/cats/00000.tar", tar)
    spec = loads(spec_for(("s3://drafts/cats",), s3))
    assert (spec.name, spec.storage.s3.endpoint) == ("cats", s3_server)
    assert spec.data.sources[0].urls == ["s3://drafts/cats/*.tar"]


# --- hostile ------------------------------------------------------------------------------------------

INJECTED = "x\nretry: {max_attempts: 9}\n#"


def test_a_members_name_adds_nothing_to_the_spec(tmp_path: Path) -> None:
    names = (
        INJECTED,
        f"{INJECTED}.txt",
        "jpg, size: 8}\nseed: 9\n#.jpg",
        "jpg;seed.jpg",
        "a b.txt",
        "\x1b[2j",
        "#.png",
    )
    write(tmp_path / "a", 1, 20, lambda n: CAPTIONED | dict.fromkeys(names, CAPTIONED["jpg"]))
    text, spec = made(tmp_path / "a")
    assert "#   jpg (100%), txt (100%); images 40x43 to 40x43" in text.splitlines(), "no spec can name the others"
    assert (spec.seed, spec.retry, spec.objective.kind) == (0, Retry(), "image_text")


def test_a_fields_name_adds_nothing_to_the_spec(tmp_path: Path) -> None:
    fields = {"a\x1b[2J": "x", 'b"}#': "x", "\ud800": "\ud800", "x\x7f": "x"}
    write(tmp_path / "a", 1, 20, lambda n: CAPTIONED | {"json": as_json(**fields)})
    text, _ = made(tmp_path / "a")
    assert all(line.isprintable() for line in text.split("\n"))
    assert '"json:a\\u001b[2J", json:b"}#, "json:x\\u007f", "json:\\ud800"; images' in text


@pytest.mark.parametrize("name", ["a\nseed: 9\n#", 'a", "b', "a b\x7f", "\N{GRINNING FACE}", "${HOME}", "# a", "a: b"])
def test_a_shards_name_adds_nothing_to_the_spec(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a", 1, 20, lambda n: CAPTIONED)
    path = tmp_path / "a" / f"{name}.tar"
    (tmp_path / "a" / "00000.tar").rename(path)
    (tmp_path / "a" / "\N{GRINNING FACE}z.tar").write_bytes(path.read_bytes())
    text, spec = made(tmp_path / "a")
    assert (spec.seed, spec.data.sources[0].urls) == (0, [str(path)])
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("name", ["2024", "1e3", "true", "null"])
def test_a_folders_name_is_text(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, 1, 20, lambda n: CAPTIONED)
    _, spec = made(tmp_path / name)
    assert (spec.name, spec.data.sources[0].name) == (name, name)


def test_a_draft_that_is_no_spec_is_not_handed_out() -> None:
    """A name whose bytes are no UTF-8."""
    with pytest.raises(DataError) as raised:
        draft("a", Shards(("\udcff.tar",), ()), Counted(20, True), seen(txt=Column(100, lengths=[50] * 100)))
    first, where, *_, last = str(raised.value).splitlines()
    assert first == (
        'no spec can be drafted for "\\udcff.tar", as what is named there does not fit into one: 1 fault in the spec'
    )
    assert re.match(r"  the spec of a:\d+:\d+: .* can't be read as str", where)
    assert last == "Rename it, or write the spec by hand: `tandem init` has examples."


# --- pure ---------------------------------------------------------------------------------------------


def seen(**columns: Column) -> Look:
    look = Look(samples=100)
    look.images["jpg"] = Column(100, sides=[(640, 480)] * 100)
    look.texts |= columns
    return look


@pytest.mark.parametrize("samples", [2, 3, 9, 100, 1437, 30_000, 200_000, 12_800_000, 2_000_000_000])
def test_a_draft_is_valid_and_its_batch_fits(samples: int) -> None:
    text = draft(
        "a", Shards(("a.tar",), ("b.tar",)), Counted(samples, False), seen(txt=Column(100, lengths=[50] * 100))
    )
    spec = loads(text)
    assert 2 <= spec.training.global_batch <= samples
    assert f"about {samples:,} samples" in text
    batches = re.findall(r"on GPUs try (.*)", text)
    assert bool(batches) == (samples >= 30_000)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket/LAION_2B/train/*.tar", "laion-2b"),
        ("data/*.tar", "data"),
        ("*.tar", "my-job"),
        ("/x/ünïcode!/*.tar", "n-code"),
        ("../*.tar", "my-job"),
    ],
)
def test_names(url: str, name: str) -> None:
    assert name_of(url) == name


@pytest.mark.parametrize(
    ("names", "train", "held_out"),
    [
        ((), ("given",), ()),
        (("a.tar",), ("given",), ()),
        (("a.tar", "b.tar"), ("a.tar",), ("b.tar",)),
        (("0.tar", "1.tar", "2.tar"), ("{0..1}.tar",), ("2.tar",)),
        (("0.tar", "2.tar", "3.tar"), ("0.tar", "2.tar"), ("3.tar",)),
        (tuple(f"s-{n * 2}.tar" for n in range(30)), ("given",), ()),
        (tuple(f"s-{n:03}.tar" for n in range(300)), ("s-{000..298}.tar",), ("s-299.tar",)),
    ],
)
def test_the_last_shard_is_held_out(names: tuple[str, ...], train: tuple[str, ...], held_out: tuple[str, ...]) -> None:
    assert split(names, ("given",)) == Shards(train, held_out)
