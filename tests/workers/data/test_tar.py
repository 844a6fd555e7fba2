"""Samples of tars of every make, against webdataset's own iterator, and headers that are none."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import random
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobspecs.errors import StorageError
from tests.workers.data.tars import tar_of
from workers.data.tar import TarDamagedError, TarSample, tar_samples
from workers.data.tar_header import BLOCK

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@dataclass(frozen=True)
class Member:
    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    pax: dict[str, str] = field(default_factory=dict)


def packed(members: Iterable[Member], layout: int) -> bytes:
    """A tar without the members that its format can't hold."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.size, info.linkname = member.kind, len(member.content), "elsewhere"
            info.pax_headers = dict(member.pax)
            with contextlib.suppress(ValueError):  # a name is too long for ustar
                tar.addfile(info, io.BytesIO(member.content))
    return buffer.getvalue()


def headers(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return opened.getmembers()


def all_extensions(tar: bytes) -> frozenset[str]:
    return frozenset(member.name.rpartition("/")[2].partition(".")[2].lower() for member in headers(tar))


def ours(tar: bytes, wanted: frozenset[str], offset: int = 0) -> list[TarSample]:
    return list(tar_samples(io.BytesIO(tar[offset:]), wanted, offset))


def contents(samples: Iterable[TarSample]) -> list[tuple[str, dict[str, bytes]]]:
    return [(sample.key, sample.members) for sample in samples]


def by_webdataset(tar: bytes) -> list[tuple[str, dict[str, bytes]]]:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    files = ({**file, "__url__": ""} for file in tar_file_iterator(io.BytesIO(tar)))
    return [
        (sample["__key__"], {name: value for name, value in sample.items() if name not in ("__key__", "__url__")})
        for sample in group_by_keys(files)
    ]


# --- against webdataset --------------------------------------------------------------------------------

KEYS = st.sampled_from(["0", "1", "000000012", "é", "日本", "a b", "x" * 99, "n" * 130, "__2__", "", "_"])
FOLDERS = st.sampled_from(["", "./", "a/", "a/b/", "v1.2/", "__meta__/", "ordner-ü/", "f" * 90 + "/", "g/" * 120, "/"])
ENDINGS = st.sampled_from(["", ".", ".jpg", ".JPG", ".txt", ".json", ".seg.png", ".Json", ".é", ".jpg\n"])
EMPTY = [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
NEW_KINDS = st.sampled_from([tarfile.REGTYPE] * 20 + [tarfile.CONTTYPE, *EMPTY])
KINDS = NEW_KINDS | st.just(tarfile.AREGTYPE)
PAX = st.sampled_from([{}, {}, {"comment": "é = ü\n"}, {"mtime": "1.5", "SCHILY.xattr.user.k": "\n9 x=y\n"}])


@st.composite
def archives(draw: st.DrawFn, max_size: int) -> list[Member]:
    """Members of a few keys. No two have one name: webdataset raises an error for those, and so does not say
    what it makes of them."""
    stems = draw(st.lists(st.builds(str.__add__, FOLDERS, KEYS), min_size=1, max_size=4))
    by_name = {}
    for _ in range(draw(st.integers(0, max_size))):
        name = draw(st.sampled_from(stems)) + draw(ENDINGS)
        # A name that ends in a slash, be it cut there, is a folder's in the oldest format.
        kind = draw(NEW_KINDS if name.endswith("/") or len(name) > 80 else KINDS)
        content = draw(st.sampled_from([0, 1, 511, 512, 513, 1500])) * b"\xe9"
        if name.strip("/"):
            by_name[name.lower()] = Member(name, b"" if kind in EMPTY else content, kind, draw(PAX))
    return list(by_name.values())


@settings(deadline=None, max_examples=200)
@given(archives(14), st.sampled_from(sorted(FORMATS)))
@example([Member("0.jpg", b"j", pax={"size": "1"}), Member("0.txt", b"t")], "pax")
@example([Member(f"{'d/' * 60}{'n' * 200}.jpg", b"j"), Member("0.txt", b"t")], "gnu")
def test_samples_are_those_of_webdataset(drawn: list[Member], layout: str) -> None:
    tar = packed(drawn, FORMATS[layout])
    wanted = all_extensions(tar)
    samples = ours(tar, wanted)
    assert contents(samples) == by_webdataset(tar)
    assert [sample.extensions for sample in samples] == [set(sample.members) for sample in samples]
    assert not any(sample.ambiguous or sample.damage for sample in samples)

    # Each begins where tarfile finds its first member, and can be read from there.
    offsets = {member.offset for member in headers(tar)}
    assert {sample.offset for sample in samples} <= offsets
    for number, sample in enumerate(samples):
        assert contents(ours(tar, wanted, sample.offset)) == contents(samples[number:])


@settings(deadline=None, max_examples=60)
@given(archives(8), st.sampled_from(sorted(COMPRESSORS)))
def test_compressed_samples_are_those_of_webdataset(drawn: list[Member], compressor: str) -> None:
    tar = packed(drawn, tarfile.PAX_FORMAT)
    samples = ours(COMPRESSORS[compressor](tar), all_extensions(tar))
    assert contents(samples) == by_webdataset(COMPRESSORS[compressor](tar)) == by_webdataset(tar)
    assert {sample.offset for sample in samples} <= {0}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.dictionaries(st.sampled_from(["jpg", "txt", "json", "seg.png"]), st.binary(), min_size=1)))
def test_samples_of_webdatasets_writer(samples: list[dict[str, bytes]]) -> None:
    from webdataset import TarWriter

    buffer = io.BytesIO()
    with TarWriter(buffer, encoder=False) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"folder/{number:05}", **sample})
    wanted = frozenset({"jpg", "txt", "json", "seg.png"})
    assert contents(ours(buffer.getvalue(), wanted)) == [(f"folder/{n:05}", s) for n, s in enumerate(samples)]


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("0.jpg", "0", "jpg"),
        ("0.SEG.Png", "0", "seg.png"),
        ("a/b/0.jpg", "a/b/0", "jpg"),
        ("./0.jpg", "./0", "jpg"),
        ("v1.2/0.jpg", "v1.2/0", "jpg"),
        ("0.", "0", ""),
        ("a/.jpg", "a/", "jpg"),
        ("a/__meta__/0.json", "a/__meta__/0", "json"),
        ("__meta.json", "__meta", "json"),
    ],
)
def test_key_and_extension(name: str, key: str, extension: str) -> None:
    (sample,) = ours(tar_of([(name, b"c")]), frozenset({extension}))
    assert (sample.key, sample.members, sample.extensions) == (key, {extension: b"c"}, {extension})


@pytest.mark.parametrize(
    "name", ["README", ".hidden.txt", "v1.2/.hidden", "v1.2/README", "__meta__", "__meta__/0.json", "__a.b__"]
)
def test_what_belongs_to_no_sample(name: str) -> None:
    tar = tar_of([("0.jpg", b"j"), (name, b"c"), ("0.txt", b"t")])
    assert [(sample.key, sample.extensions) for sample in ours(tar, frozenset())] == [("0", {"jpg", "txt"})]


def test_only_wanted_members_have_their_content() -> None:
    tar = tar_of([("0.jpg", b"j"), ("0.pyd", b"\x80"), ("0.seg.jpg", b"s")])
    (sample,) = ours(tar, frozenset({"seg.jpg", "txt"}))
    assert sample.members == {"seg.jpg": b"s"}
    assert sample.extensions == {"jpg", "pyd", "seg.jpg"}


def test_two_members_of_one_extension() -> None:
    samples = ours(tar_of([(name, b"") for name in ("0.jpg", "1.jpg", "1.txt", "1.JPG", "2.jpg")]), frozenset())
    assert [(sample.key, sample.ambiguous) for sample in samples] == [("0", False), ("1", True), ("2", False)]


def test_members_of_a_key_that_stand_apart_are_two_samples() -> None:
    samples = ours(tar_of([(name, b"") for name in ("0.jpg", "1.jpg", "0.txt")]), frozenset())
    assert [sample.key for sample in samples] == ["0", "1", "0"]


def test_a_size_that_only_the_pax_header_has() -> None:
    """As of members above 8 GiB, for which ustar's field is too small."""
    info = tarfile.TarInfo("0.jpg")
    info.pax_headers = {"size": "700"}
    head = info.tobuf(tarfile.PAX_FORMAT)
    tar = head + bytes([7]) * 700 + bytes(324) + tar_of([("0.txt", b"t")])
    assert contents(ours(tar, frozenset({"jpg", "txt"}))) == by_webdataset(tar)
    assert by_webdataset(tar) == [("0", {"jpg": bytes([7]) * 700, "txt": b"t"})]


# --- damage --------------------------------------------------------------------------------------------


def header(name: bytes = b"1.txt", size: bytes = b"00000000001\0", kind: bytes = b"0", ending: bytes = b"") -> bytes:
    """A header block with a sound checksum, whatever else is wrong."""
    block = bytearray(BLOCK)
    block[: len(name)], block[124:136], block[156:157] = name, size, kind
    block[257:265] = b"ustar\x0000"
    block[BLOCK - len(ending) :] = ending
    block[148:156] = b"%06o\0 " % (sum(block) + 8 * 32)
    return bytes(block)


def pax(records: bytes) -> bytes:
    return header(b"x", b"%011o\0" % len(records), b"x") + records.ljust(BLOCK, b"\0")


FILE = header() + b"t".ljust(BLOCK, b"\0")
END = bytes(2 * BLOCK)
DAMAGES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "truncated"),
    "a few bytes of text": (b"Not found", "truncated"),
    "text": (b"<html>Not found</html>" * 99, "unreadable"),
    "another checksum": (FILE.replace(b"1.txt", b"2.txt") + END, "unreadable"),
    "a checksum that is no number": (header()[:148] + b"checksum" + header()[156:] + END, "unreadable"),
    "a size that is no number": (header(size=b"abcdefghijk\0") + END, "unreadable"),
    "a size below zero": (header(size=b"-0000000010\0") + END, "unreadable"),
    "a size of exabytes": (header(size=b"\x80" + b"\xff" * 11) + END, "truncated"),
    "a size of exabytes, of a wanted member": (header(b"0.txt", b"\x80" + b"\xff" * 11) + END, "truncated"),
    "a size of exabytes, of a long name": (header(size=b"\x80" + b"\xff" * 11, kind=b"L") + END, "truncated"),
    "a sparse file of GNU tar": (header(kind=b"S") + END, "unreadable"),
    "a sparse file in pax": (pax(b"22 GNU.sparse.major=1\n") + FILE + END, "unreadable"),
    "a pax record without a length": (pax(b"path=x\n") + FILE + END, "unreadable"),
    "a pax record that is too long": (pax(b"99 path=x\n") + FILE + END, "unreadable"),
    "a pax record of length zero": (pax(b"0 path=x\n") + FILE + END, "unreadable"),
    "a pax record with thousands of digits": (pax(b"9" * 500) + FILE + END, "unreadable"),
    "a pax size that is no number": (pax(b"11 size=1x\n") + FILE + END, "unreadable"),
    "no end": (FILE, "truncated"),
    "a cut header": (FILE + header()[:511], "truncated"),
    "a cut member": (FILE[: BLOCK + 1], "truncated"),
    "a long name without a member": (header(kind=b"L") + b"x".ljust(BLOCK, b"\0"), "truncated"),
}


WHOLE = tar_of([("0.jpg", b"j")])[: 2 * BLOCK]


def overwritten(content: bytes) -> bytes:
    return content[:1000] + bytes(200) + content[1200:]


@pytest.mark.parametrize(("damaged", "cause"), DAMAGES.values(), ids=DAMAGES)
def test_damage(damaged: bytes, cause: str) -> None:
    found = []
    samples = tar_samples(io.BytesIO(WHOLE + damaged), frozenset({"jpg", "txt"}))
    with pytest.raises(TarDamagedError) as caught:  # noqa: PT012 - the samples before the damage count
        for sample in samples:
            found.append(sample)
    assert caught.value.cause == found[-1].damage == cause
    assert contents(found)[0] == ("0", {"jpg": b"j"})


def test_a_claim_of_gigabytes_takes_no_memory() -> None:
    tar = header(b"0.txt", b"77777777777\0") + bytes(1000)
    tracemalloc.start()
    try:
        with pytest.raises(TarDamagedError):
            ours(tar, frozenset({"txt"}))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


SOUND = tar_of([(f"{n}.jpg", random.Random(n).randbytes(3000)) for n in range(4)])
COMPRESSED_DAMAGES: dict[str, tuple[bytes, str]] = {
    **{
        f"{name}, cut": (compress(SOUND)[:6000], "truncated")
        for name, compress in COMPRESSORS.items()
        if name != "bzip2"
    },
    # A block of bzip2 is decompressed as a whole.
    "bzip2, cut": (bz2.compress(SOUND)[:6000], "truncated"),
    "gzip, cut in its header": (gzip.compress(SOUND)[:3], "truncated"),
    "gzip of nothing": (gzip.compress(b""), "truncated"),
    "gzip of a tar that is cut": (gzip.compress(SOUND[:6000]), "truncated"),
    "gzip of no tar": (gzip.compress(b"text " * 500), "unreadable"),
    "bytes that gzip does not know": (b"\x1f\x8b" + bytes(2000), "unreadable"),
    **{f"{name}, overwritten": (overwritten(compress(SOUND)), "unreadable") for name, compress in COMPRESSORS.items()},
}


@pytest.mark.parametrize(("damaged", "cause"), COMPRESSED_DAMAGES.values(), ids=COMPRESSED_DAMAGES)
def test_damage_of_compressed_tars(damaged: bytes, cause: str) -> None:
    with pytest.raises(TarDamagedError) as caught:
        ours(damaged, frozenset({"jpg"}))
    assert caught.value.cause == cause


def test_gzip_in_parts() -> None:
    """As parallel compressors write it; webdataset reads the first part alone."""
    tar = gzip.compress(SOUND[:4000]) + gzip.compress(SOUND[4000:])
    assert contents(ours(tar, frozenset({"jpg"}))) == contents(ours(SOUND, frozenset({"jpg"})))


class Breaking(io.BytesIO):
    """A stream that fails in the middle, as a lost mount does."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 4000:
            raise StorageError("cannot read s3://b/x.tar: no answer")
        return super().read(size)


@pytest.mark.parametrize("tar", [SOUND, gzip.compress(SOUND)], ids=["plain", "gzip"])
def test_an_error_of_the_storage_is_no_damage(tar: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip, "READ_BUFFER_SIZE", 1000, raising=False)
    with pytest.raises(StorageError, match=r"^cannot read s3://b/x\.tar: no answer$"):
        list(tar_samples(Breaking(tar), frozenset({"jpg"})))


def test_reading_tars_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "deepspeed", "ray", "boto3", "webdataset", "pyarrow")
    code = f"import sys, workers.data.loader_process; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
