"""From the members of a sample to a row: the columns of the spec and no others, drawn by key, or masked."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.columns import Color, Document, Image, Query, Text, Weight
from jobspecs.data import Data
from tests.workers.data.pictures import jpeg_of_size, views_of
from tests.workers.data.samples import (
    LENGTH,
    NEGATIVES,
    PAIR,
    captions,
    content,
    data_of,
    made,
    maker_of,
    placed,
    text_in,
    used_rows,
)
from tests.workers.data.tars import InMemory, noise_jpeg, tar_of
from workers.data.augment import draw_color
from workers.data.keyed import hash64
from workers.data.row_maker import image_key
from workers.data.rows import BadSample
from workers.data.shards import extensions, read_unindexed
from workers.data.stream import Placed
from workers.storage import ObjectInfo

JPEG = noise_jpeg(0)

# --- images -------------------------------------------------------------------------------------------

PAIRS = data_of(image=Image(size=8, crop_scale=[0.3, 0.9], flip=0.5), text=Text(context_length=LENGTH))


def test_a_pair() -> None:
    rows = made(PAIRS, {"jpg": JPEG, "txt": b"a caf\xc3\xa9"}, pass_=1)
    key = (5, "crop", 1, "web", 2, 3)
    assert (rows.columns["image"][0] == views_of(JPEG, 8, key, crop_scale=[0.3, 0.9], flip=0.5)).all()
    assert text_in(rows.columns["text"][0]) == "a café"
    assert rows.ids[0] == hash64("web", 2, 3, "key")


def test_only_the_row_is_written() -> None:
    rows = used_rows(PAIRS, 3)
    maker_of(PAIRS).fill(placed({"jpg": JPEG, "txt": b"a"}), rows, 1)
    maker_of(PAIRS).fill(placed({}, fault="truncated"), rows, 1)
    for array in (*rows.columns.values(), rows.ids):
        assert (array[[0, 2]] == 77).all()


def test_two_views_differ_in_crop_and_colour() -> None:
    data = data_of(image=Image(size=8, views=2, crop_scale=[0.1, 0.9], flip=0.5, color=Color()))
    colors = set()
    for place in range(20):
        rows = made(data, {"jpg": JPEG}, place=place)
        one, two = rows.columns["image"][0]
        assert (one != two).any()
        for view in range(2):
            expected = draw_color(Color(), (5, "color", 0, "web", 2, place, view))
            assert (rows.columns["color"][0, view] == expected).all()
            colors.add(expected.tobytes())
    assert len(colors) > 30  # an unchanged view is drawn now and then


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 2**62))
@settings(deadline=None, max_examples=30)
def test_draws_depend_on_seed_pass_and_sample(pass_: int, place: int, seed: int) -> None:
    data = data_of(
        image=Image(size=8, views=2, crop_scale=[0.1, 0.9], color=Color()),
        text=Text(column="json", field="texts", context_length=LENGTH),
    )
    members = {"jpg": JPEG, "json": content({"texts": [str(number) for number in range(1000)]})}
    rows = used_rows(data, 5)
    others = ((seed, pass_ + 1, place), (seed, pass_, place + 1), (seed + 1, pass_, place))
    for row, (one_seed, one_pass, one_place) in enumerate([(seed, pass_, place)] * 2 + list(others)):
        maker_of(data, one_seed).fill(placed(members, one_pass, one_place), rows, row)
    for column in rows.columns.values():
        assert (column[0] == column[1]).all()
    for row in range(2, 5):
        assert any((column[0] != column[row]).any() for column in rows.columns.values())


def test_only_the_columns_of_the_spec_are_read() -> None:
    damaged = {"png": b"no image", "json": b"no JSON", "cls": b"\xff"}
    assert maker_of(PAIRS).columns == (("jpg", "jpeg", "png", "webp"), ("txt",))
    assert text_in(made(PAIRS, {"jpg": JPEG, "txt": b"a", **damaged}).columns["text"][0]) == "a"
    texts_only = data_of(document=Document(context_length=LENGTH))
    assert maker_of(texts_only).columns == (("document.txt",),)
    assert made(texts_only, {"document.txt": b"a", "jpg": b"no image"}).columns.keys() == {"document"}


def test_columns_that_stand_in_one_member_are_one() -> None:
    data = data_of(
        query=Query(column="json", field="q", context_length=LENGTH),
        document=Document(column="json", field="d.text", context_length=LENGTH),
    )
    assert maker_of(data).columns == (("json",),)
    rows = made(data, {"json": content({"q": "who?", "d": {"text": "me"}})})
    assert text_in(rows.columns["query"][0]) == "who?"
    assert text_in(rows.columns["document"][0]) == "me"


# --- keys of images, prefixes, weights ----------------------------------------------------------------

WEIGHED = data_of(text=Text(context_length=LENGTH), weight=Weight(field="score.quality"))


def weighed(value: Any) -> dict[str, bytes]:
    return {"txt": b"a", "json": content({"score": {"quality": value}})}


def test_the_key_of_an_image_is_xxh3_of_its_bytes() -> None:
    # Of the reference implementation, https://github.com/Cyan4973/xxHash: XXH3_64bits("", 0) = 0x2d06800538d394c2.
    assert image_key(b"") == 0x2D06800538D394C2
    one, other = (made(PAIRS, {"jpg": noise_jpeg(n), "txt": b"a"}) for n in (0, 1))
    again = made(PAIRS, {"jpg": noise_jpeg(0), "txt": b"b"}, pass_=1, place=9)
    assert one.columns["image_key"] == again.columns["image_key"] == image_key(noise_jpeg(0))
    assert one.columns["image_key"] != other.columns["image_key"]
    keys = [image_key(bytes([n])) for n in range(99)]
    assert min(keys) < 0 < max(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_a_prefix_stands_before_each_text() -> None:
    data = data_of(
        query=Query(prefix="q: ", context_length=LENGTH),
        document=Document(column="json", field="d", prefix="d: ", context_length=LENGTH),
        negatives=NEGATIVES.negatives,
    )
    members = {"query.txt": b"who?", "json": content({"d": "me"}), "negatives.json": content(["you", ""])}
    columns = made(data, members).columns
    assert text_in(columns["query"][0]) == "q: who?"
    assert text_in(columns["document"][0]) == "d: me"
    assert [text_in(tokens) for tokens in columns["negatives"][0, :2]] == ["d: you", "d: "]
    captioned = data_of(text=Text(prefix="a text: ", context_length=12))
    assert text_in(made(captioned, {"txt": b"longer"}).columns["text"][0]) == "a text: lo"


@pytest.mark.parametrize(("value", "weight"), [(0, 0.0), (2, 2.0), (0.3, np.float32(0.3)), (1e-60, 0.0), (-0.0, 0.0)])
def test_the_weight_of_a_row(value: float, weight: float) -> None:
    assert made(WEIGHED, weighed(value)).columns["weight"].tolist() == [weight]


# --- masked rows --------------------------------------------------------------------------------------

DEEP = b'{"captions": ' + b"[" * 100_000
MASKED: list[tuple[Data, dict[str, bytes], str]] = [
    (PAIRS, {"txt": b"a"}, "missing_column"),
    (PAIRS, {"jpg": JPEG}, "missing_column"),
    (PAIRS, {"jpg": b"no image", "txt": b"a"}, "undecodable"),
    (PAIRS, {"jpg": b"", "txt": b"a"}, "undecodable"),
    (PAIRS, {"jpg": JPEG[:-20], "txt": b"a"}, "undecodable"),
    (PAIRS, {"jpg": jpeg_of_size(60_000, 60_000), "txt": b"a"}, "too_large"),
    (PAIRS, {"jpg": JPEG, "txt": b"caf\xe9"}, "undecodable"),
    (WEIGHED, {"txt": b"a"}, "missing_column"),
    (WEIGHED, {"txt": b"a", "json": content({"quality": 1})}, "missing_column"),
    (WEIGHED, weighed(None), "missing_column"),
    (WEIGHED, weighed("1"), "undecodable"),
    (WEIGHED, weighed(True), "undecodable"),
    (WEIGHED, weighed([1]), "undecodable"),
    (WEIGHED, weighed(-0.1), "undecodable"),
    (WEIGHED, weighed(float("nan")), "undecodable"),
    (WEIGHED, weighed(float("inf")), "undecodable"),
    (WEIGHED, weighed(1e39), "undecodable"),
    (WEIGHED, weighed(10**400), "undecodable"),
    (WEIGHED, {"txt": b"a", "json": b"{"}, "undecodable"),
    (captions(), {"json": b""}, "undecodable"),
    (captions(), {"json": b'{"captions": "a"'}, "undecodable"),
    (captions(), {"json": DEEP}, "undecodable"),
    (captions(), {"json": content({"captions": 3})}, "undecodable"),
    (captions(), {"json": content({"captions": ["a", 3]})}, "undecodable"),
    (captions(), {"json": content({"captions": ["a", None]})}, "undecodable"),
    (captions(), {"json": content({"captions": {"en": "a"}})}, "undecodable"),
    (captions(), {"json": content({"captions": [["a"]]})}, "undecodable"),
    (captions(), {"json": content({"captions": []})}, "missing_column"),
    (captions(), {"json": content({"captions": None})}, "missing_column"),
    (captions(), {"json": content({"caption": "a"})}, "missing_column"),
    (captions(), {"json": content(["a"])}, "missing_column"),
    (captions("a.b"), {"json": content({"a": "b"})}, "missing_column"),
    (NEGATIVES, PAIR, "missing_column"),
    (NEGATIVES, {**PAIR, "negatives.json": b"[1, 2]"}, "undecodable"),
    (NEGATIVES, {**PAIR, "negatives.json": b"null"}, "undecodable"),
    (NEGATIVES, {**PAIR, "negatives.json": b'{"a": "b"}'}, "undecodable"),
    (NEGATIVES, {**PAIR, "negatives.json": b"[" * 100_000}, "undecodable"),
    (NEGATIVES, {**PAIR, "negatives.json": b"\xff\xfe\xfd"}, "undecodable"),
]


@pytest.mark.parametrize(("data", "members", "cause"), MASKED)
def test_a_masked_row_says_why_and_is_zero(data: Data, members: dict[str, bytes], cause: str) -> None:
    rows = used_rows(data)
    bad = maker_of(data).fill(placed(members), rows, 0)
    assert bad == BadSample("file:///x.tar", 3, "key", cause)
    assert not rows.valid[0]
    assert not any(column.any() for column in rows.columns.values())
    assert rows.ids[0] == hash64("web", 2, 3, "key")


@pytest.mark.parametrize("fault", ["truncated", "unreadable", "missing_column"])
def test_a_fault_of_the_tar_is_the_cause(fault: str) -> None:
    rows = used_rows(PAIRS)
    bad = maker_of(PAIRS).fill(placed({"jpg": JPEG, "txt": b"a"}, fault=fault), rows, 0)
    assert bad is not None
    assert bad.cause == fault
    assert not any(column.any() for column in rows.columns.values())


# --- what never happens -------------------------------------------------------------------------------


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [0, 4])
def test_nothing_is_unpickled(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched = tmp_path / "touched"
    trap = pickle.dumps(Touch(touched), protocol)
    names = ("pickle", "pyd", "pkl", "pth", "npy")
    members = [("a.jpg", JPEG), ("a.txt", b"a"), *((f"a.{name}", trap) for name in names)]
    storage = InMemory({"file:///x.tar": tar_of(members)})

    def unpickled(*args: object, **options: object) -> None:
        pytest.fail("something was unpickled")

    monkeypatch.setattr(pickle, "loads", unpickled)
    monkeypatch.setattr(pickle, "load", unpickled)
    for image, text in [("jpg", "txt"), *((name, name) for name in names)]:
        data = data_of(image=Image(size=8, column=image), text=Text(column=text, context_length=LENGTH))
        rows, maker = used_rows(data), maker_of(data)
        info = ObjectInfo("file:///x.tar", len(storage.objects["file:///x.tar"]), "")
        (sample,) = read_unindexed(storage, info, maker.columns)
        assert sample.columns.keys() == {*extensions(image), *extensions(text)}
        bad = maker.fill(Placed(sample, "web", 0, "file:///x.tar", 0), rows, 0)
        # Where the spec names such a member, its bytes are looked at as an image.
        assert (bad is None) == (image == "jpg")
    assert not touched.exists()


def test_the_loader_process_imports_what_it_needs() -> None:
    code = "import sys, workers.data.loader_process; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "tokenizers", "boto3", "botocore", "pyarrow", "webdataset", "kornia", "ray"}
    assert "cv2" in modules
    assert heavy.isdisjoint(modules)
