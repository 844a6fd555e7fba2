"""What the calls to the libraries alone can do: simplejpeg and OpenCV, from memory to memory.

A process per core decodes and resizes the same few photos again and again, by the calls of
workers/data/decode.py and resize.py: JPEG decoded at the smallest power-of-two scale at which the crop still
has the pixels, cut, blurred a little against aliasing, resized bicubically. No reading, no shuffling, no
draws, no tokens, nothing sent to another process. The bound that the loader is measured against.
"""

from __future__ import annotations

import multiprocessing
import tarfile
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from tests.benchmarks.data_contestants import CROP_SCALE, IMAGE_SIZE, Case
from workers.data.resize import resize

_PHOTOS = 256
_SIDE = (sum(CROP_SCALE) / 2) ** 0.5
"""Side of the crop over that of the image: every crop has the mean area of the random ones."""


def bare_rate(case: Case, seconds: float) -> dict[str, Any]:
    """The sum over the processes; each is measured while the others are at work too."""
    jpegs = _jpegs(case)
    context = multiprocessing.get_context("fork")
    together = context.Barrier(case.processes)

    def work(sender: Any) -> None:
        sender.send(_rates(jpegs, seconds, together.wait))

    receivers = []
    for _ in range(case.processes):
        receiver, sender = context.Pipe(duplex=False)
        context.Process(target=work, args=(sender,), daemon=True).start()
        receivers.append(receiver)
    rates = [receiver.recv() for receiver in receivers]
    return {
        "samples_per_second": sum(rate for rate, _ in rates),
        "samples_per_cpu_second": sum(rate for _, rate in rates) / len(rates),
        "first_batch_seconds": None,
    }


def _rates(jpegs: list[bytes], seconds: float, wait: Callable[[], Any]) -> tuple[float, float]:
    """Samples per second, and per second of CPU time, of this process."""
    cv2.setNumThreads(1)
    rows = np.zeros((len(jpegs), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    decode_rows(jpegs, rows)
    wait()
    began, began_cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        decode_rows(jpegs, rows)
        done += len(jpegs)
    return done / (time.perf_counter() - began), done / (time.process_time() - began_cpu)


def decode_rows(jpegs: list[bytes], rows: NDArray[np.uint8]) -> None:
    """Fills rows, uint8 (len(jpegs), 224, 224, 3)."""
    for jpeg, row in zip(jpegs, rows, strict=True):
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        scale = 1
        while min(height, width) * _SIDE / (2 * scale) >= IMAGE_SIZE:
            scale *= 2
        pixels = simplejpeg.decode_jpeg(
            jpeg, "RGB", min_height=-(-height // scale), min_width=-(-width // scale), min_factor=scale
        )
        h, w = (round(side * _SIDE) for side in pixels.shape[:2])
        top, left = (pixels.shape[0] - h) // 2, (pixels.shape[1] - w) // 2
        resize(pixels[top : top + h, left : left + w], row)


def _jpegs(case: Case) -> list[bytes]:
    with tarfile.open(case.folder / "tar" / "00000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")][:_PHOTOS]
        return [tar.extractfile(name).read() for name in names]  # type: ignore[union-attr]
