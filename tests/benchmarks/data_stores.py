"""The same photos as tars, as MDS shards and as litData chunks: what the contestants of `data.py` read.

In: a folder and a size. Out: `tar/`, `mds/`, `litdata/` in it, each with every photo's JPEG bytes and
caption as they were generated. Tars are in img2dataset's layout; MDS and litData shards have the 64 MiB
that their makers recommend. What is there already, made by the same code, is kept.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks import photos

_TARS = 16
_BYTES_PER_PIXEL = 0.31
_SHARD_BYTES = 64 << 20


def prepare(folder: Path, width: int, height: int, total_bytes: float) -> int:
    """Writes about `total_bytes` of photos into the folder three times over; returns their number."""
    count = max(1, int(total_bytes / (_BYTES_PER_PIXEL * width * height * _TARS))) * _TARS
    stamp = folder / "made-by"
    code = "".join(Path(module).read_text() for module in (__file__, photos.__file__))
    made_by = hashlib.sha256(f"{code} {width} {height} {count}".encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != made_by:
        shutil.rmtree(folder, ignore_errors=True)
        write_tars(folder / "tar", photos.photos(width, height, count), count)
        _write_mds(folder / "mds", folder / "tar")
        _write_litdata(folder / "litdata", folder / "tar")
        stamp.write_text(made_by)
    return count


def write_tars(folder: Path, pairs: Iterator[tuple[bytes, str]], count: int) -> None:
    """`count` (JPEG, caption) pairs, spread over the tars, with img2dataset's sidecars."""
    folder.mkdir(parents=True)
    for number in range(_TARS):
        share = itertools.islice(pairs, count * (number + 1) // _TARS - count * number // _TARS)
        written = 0
        with tarfile.open(folder / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for written, (jpeg, caption) in enumerate(share, start=1):
                key = f"{number:05d}{written - 1:04d}"
                described = json.dumps({"caption": caption, "key": key, "status": "success"}).encode()
                for extension, content in (("jpg", jpeg), ("txt", caption.encode()), ("json", described)):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        (folder / f"{number:05d}_stats.json").write_text(json.dumps({"count": written, "successes": written}))


def _read_tar(path: Path) -> Iterator[dict[str, bytes | str]]:
    """The samples of a tar of `write_tars`, as the other formats hold them."""
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            if member.name.endswith(".jpg"):
                jpeg = file.read()
            elif member.name.endswith(".txt"):
                yield {"image": jpeg, "caption": file.read().decode()}


def _tars(folder: Path) -> Sequence[Path]:
    return sorted(folder.glob("*.tar"))


def _write_mds(folder: Path, tars: Path) -> None:
    from tests.benchmarks.torchvision_python import load_torchvision

    load_torchvision()
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "bytes", "caption": "str"}, size_limit=_SHARD_BYTES) as writer:
        for tar in _tars(tars):
            for sample in _read_tar(tar):
                writer.write(sample)


def _write_litdata(folder: Path, tars: Path) -> None:
    import litdata

    litdata.optimize(
        fn=_read_tar,
        inputs=list(_tars(tars)),
        output_dir=str(folder),
        chunk_bytes=_SHARD_BYTES,
        num_workers=1,
        reorder_files=False,
        verbose=False,
    )
