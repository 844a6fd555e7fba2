"""`digits`: scikit-learn's 1,797 scanned digits with captions, 1,437 to train on and 360 to test.

In: a seed. Out: a `Demo` with ten labels. The scans come with scikit-learn, so nothing is downloaded.
Made in 2 s: 4 + 1 shards, 7 MB of tars.
"""

from __future__ import annotations

import numpy as np

from workers.data.demo_tar import Demo, Sample, Split, encode_jpeg

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = (
    "a photo of the digit {}",
    "a scan of the number {}",
    "handwritten {}",
    "the digit {} written by hand",
    "a blurry picture of the number {}",
    "someone wrote the number {}",
    "a low resolution image of a handwritten {}",
    "{}, written with a pen",
)
SIDE = 32
TEST_SAMPLES = 360
TRAIN_SHARDS = 4
MOST_INK = 16
"""The scans' 8×8 values are counts of inked pixels in 4×4 blocks: 0 to 16."""


def digits(seed: int) -> Demo:
    """Stratified split of the scans, drawn with `seed`, each upscaled to 32×32 and captioned.

    A caption's template is drawn from (seed, number of the scan), so it stays with its scan.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    train, test = train_test_split(
        np.arange(len(scans.target)), test_size=TEST_SAMPLES, stratify=scans.target, random_state=seed
    )

    def samples(numbers: np.ndarray) -> tuple[Sample, ...]:
        return tuple(_sample(seed, int(n), scans.images[n], int(scans.target[n])) for n in numbers)

    splits = (Split("train", samples(train), TRAIN_SHARDS), Split("test", samples(test), 1))
    return Demo(splits, labels=CLASS_NAMES)


def _sample(seed: int, number: int, scan: np.ndarray, label: int) -> Sample:
    from PIL import Image

    # scan: (8, 8) float, 0..16 -> (8, 8) uint8, 0..255
    pixels = np.round(scan * (255 / MOST_INK)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    template = CAPTIONS[np.random.default_rng((seed, number)).integers(len(CAPTIONS))]
    class_name = CLASS_NAMES[label]
    facts: dict[str, str | int] = {"label": label, "class_name": class_name, "scan": number}
    return Sample(encode_jpeg(image), template.format(class_name), SIDE, SIDE, facts)
