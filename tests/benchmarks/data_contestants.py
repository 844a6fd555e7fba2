"""The contestants of `data.py`: the same photos to the same batches, each in its own usual way.

In: a `Case`. Out: a function that starts the loader and gives its batches; what it imports is imported
by then. A batch is (images, tokens) of `batch` samples; `data_run.py` iterates and measures.

All cut as open_clip's training transform does (RandomResizedCrop, 0.9 to 1 of the area, to 224x224) and
tokenize captions as UTF-8 bytes. What differs:

- Tandem delivers uint8, which the training loop normalises on the device. Its shuffle spans 2,048 samples.
- webdataset is open_clip's pipeline: shards and samples shuffled (a buffer of 5,000), Pillow, torchvision's
  transform with bicubic resizing, normalised float32. From S3, boto3 opens one stream a shard: open_clip's
  `pipe:aws s3 cp` would start a Python interpreter for each.
- Streaming and litData hold the JPEG bytes in their own formats, decoded and transformed in
  `__getitem__` as in the row above, shuffled by their defaults. From S3, both copy shards to a local
  folder first, which is empty when a run starts.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 224
CROP_SCALE = (0.9, 1.0)
CONTEXT_LENGTH = 77
_SHUFFLE_WINDOW = 2048
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # open_clip's

Start = Callable[[], Iterable[tuple[Any, Any]]]


@dataclass(frozen=True)
class Case:
    """What one run reads and delivers."""

    folder: Path
    """As `data_stores.prepare` wrote it. A bucket of the same name holds the same at `endpoint`."""
    endpoint: str | None
    """URL of the S3 server to read from; None reads the folder."""
    processes: int
    """Loader processes."""
    batch: int
    scratch: Path
    """An empty folder."""

    def place(self, store: str) -> str:
        """Path or URI of one of the stores."""
        return str(self.folder / store) if self.endpoint is None else f"s3://{self.folder.name}/{store}"

    @property
    def tars(self) -> list[str]:
        """Paths or URIs of the tars."""
        return [f"{self.place('tar')}/{path.name}" for path in sorted((self.folder / "tar").glob("*.tar"))]


def tandem(case: Case) -> Start:
    from jobspecs.data import Data, Image, Loader, Source, Text
    from jobspecs.storage import S3
    from orchestrator.indexing import build_index
    from workers.data import loader
    from workers.data.find_shards import Folders
    from workers.data.order import Layout, auto_lanes
    from workers.data.tokenize import byte_tokenizer
    from workers.storage import Storage

    data = Data(
        sources=[Source(name="photos", urls=case.tars)],
        image=Image(size=IMAGE_SIZE, crop_scale=list(CROP_SCALE)),
        text=Text(context_length=CONTEXT_LENGTH),
        loader=Loader(processes=case.processes),
    )
    s3 = S3(endpoint=case.endpoint)
    # Counts stand beside the tars: nothing is scanned, and the index has no offsets.
    index = build_index(data.sources[0], Folders(Storage(s3)), scanner=lambda source, shards: [])
    lanes = auto_lanes(case.batch)
    window = _SHUFFLE_WINDOW // lanes
    layout = Layout(seed=0, global_batch=case.batch, lanes=lanes, window=window, slots=(case.batch,))
    steps = int(index.samples.sum()) // case.batch
    tokenizers = {"text": byte_tokenizer()}

    def start() -> Iterable[tuple[Any, Any]]:
        with loader.Loader(
            (index,), layout, data, tokenizers, s3, rank=0, world_size=1, first_step=0, last_step=steps
        ) as batches:
            for batch in batches:
                assert batch.rows.valid.all(), batch.bad
                yield batch.rows.columns["image"], batch.rows.columns["text"]

    return start


def webdataset(case: Case) -> Start:
    import webdataset as wds
    from webdataset.gopen import gopen_schemes

    transform = open_clip_transform()
    if case.endpoint is not None:
        os.environ["AWS_ENDPOINT_URL_S3"] = case.endpoint
        gopen_schemes["s3"] = _open_s3

    def start() -> Iterable[tuple[Any, Any]]:
        dataset = wds.DataPipeline(
            wds.SimpleShardList(case.tars),
            wds.detshuffle(bufsize=2000, initial=500),
            wds.split_by_node,
            wds.split_by_worker,
            wds.tarfile_to_samples(),
            wds.shuffle(bufsize=5000, initial=1000),
            wds.decode("pilrgb"),
            wds.rename(image="jpg;png;jpeg;webp", text="txt"),
            wds.map_dict(image=transform, text=byte_tokens),
            wds.to_tuple("image", "text"),
            wds.batched(case.batch, partial=False),
        )
        loader = wds.WebLoader(
            dataset, batch_size=None, shuffle=False, num_workers=case.processes, persistent_workers=True
        )
        return iter(loader)

    return start


def streaming(case: Case) -> Start:
    transform = open_clip_transform()
    from PIL import Image
    from streaming import StreamingDataLoader, StreamingDataset

    class Photos(StreamingDataset):
        def __getitem__(self, at: int) -> tuple[Any, Any]:
            sample = super().__getitem__(at)
            image = Image.open(io.BytesIO(sample["image"])).convert("RGB")
            return transform(image), byte_tokens(sample["caption"])

    if case.endpoint is None:
        place = {"local": case.place("mds")}
    else:
        os.environ["S3_ENDPOINT_URL"] = case.endpoint
        place = {"remote": case.place("mds"), "local": str(case.scratch)}

    def start() -> Iterable[tuple[Any, Any]]:
        dataset = Photos(**place, shuffle=True, batch_size=case.batch)
        for stream in dataset.streams:
            # The forked workers would share the connection that the index came over, and hang: without
            # TLS nothing tells them that they read each other's bytes.
            stream._downloader.clean_up()
        return iter(StreamingDataLoader(dataset, batch_size=case.batch, num_workers=case.processes, drop_last=True))

    return start


def litdata(case: Case) -> Start:
    transform = open_clip_transform()
    import litdata
    from litdata.streaming import downloader
    from PIL import Image

    class Photos(litdata.StreamingDataset):
        def __getitem__(self, at: Any) -> tuple[Any, Any]:
            sample = super().__getitem__(at)
            image = Image.open(io.BytesIO(sample["image"])).convert("RGB")
            return transform(image), byte_tokens(sample["caption"])

    options = {} if case.endpoint is None else {"storage_options": {"endpoint_url": case.endpoint}}
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # else it reads from https:// only

    def start() -> Iterable[tuple[Any, Any]]:
        dataset = Photos(case.place("litdata"), cache_dir=str(case.scratch), shuffle=True, drop_last=True, **options)
        return iter(
            litdata.StreamingDataLoader(dataset, batch_size=case.batch, num_workers=case.processes, drop_last=True)
        )

    return start


CONTESTANTS: dict[str, Callable[[Case], Start]] = {
    "tandem": tandem,
    "webdataset": webdataset,
    "streaming": streaming,
    "litdata": litdata,
}


def open_clip_transform() -> Callable[[Any], Any]:
    """PIL image -> float32 (3, 224, 224), as open_clip's `image_transform(is_train=True)` does it."""
    from tests.benchmarks.torchvision_python import load_torchvision

    transforms = load_torchvision().transforms
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                IMAGE_SIZE, scale=CROP_SCALE, interpolation=transforms.InterpolationMode.BICUBIC
            ),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN, _STD),
        ]
    )


def byte_tokens(text: str) -> NDArray[np.int32]:
    """(CONTEXT_LENGTH,): Tandem's tokens of kind `bytes`, for the peers."""
    content = text.encode()[: CONTEXT_LENGTH - 2]
    tokens = np.full(CONTEXT_LENGTH, 258, np.int32)
    tokens[0] = 256
    tokens[1 : len(content) + 1] = np.frombuffer(content, np.uint8)
    tokens[len(content) + 1] = 257
    return tokens


def _open_s3(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> io.BufferedReader:
    """What webdataset opens `s3://` with."""
    bucket, key = url.removeprefix("s3://").split("/", 1)
    body = _s3_client().get_object(Bucket=bucket, Key=key)["Body"]
    return io.BufferedReader(body, 1 << 20)


@cache
def _s3_client() -> Any:
    import boto3

    return boto3.client("s3")
