"""`glyphs`: characters of eight DejaVu fonts, each captioned with its Unicode name.

In: a seed. Out: a `Demo` whose test characters are absent from training in every font, so a model
must read "latin small letter a with acute" from its parts. The fonts come with matplotlib, so
nothing is downloaded. With seed 0: 28,792 training samples in 15 shards (111 MB of tars) and 3,419
test samples in 2 (13 MB), made in 5 s on one core.

Look-alikes stay in ("latin capital letter a", "greek capital letter alpha"): 386 of those test images
equal a training image with another caption, so no model retrieves them all.

All twelve DejaVu text fonts would give 45,600 samples; these eight leave out the slanted variants
that differ least.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobspecs.errors import DataError
from workers.data.demo_tar import Demo, Sample, Split, encode_jpeg

if TYPE_CHECKING:
    from PIL import Image, ImageFont

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
)
CATEGORIES = "LNSP"
"""First letters of the Unicode categories used: letters, numbers, symbols, punctuation."""
HELD_OUT_CHARACTERS = 500
HELD_OUT_MIN_FONTS = 4
SHARD_SAMPLES = 2_000
SIDE = 32
MARGIN = 1
LARGEST_SIZE = 24
"""At this font size, in pixels, ascent and descent together take 28 of the 32 rows."""
SMALLEST_SIZE = 8


def glyphs(seed: int, *, limit: int | None = None, held_out: int = HELD_OUT_CHARACTERS) -> Demo:
    """Render every character in every font that covers it; hold `held_out` of them out as `test`.

    Characters held out are drawn with `seed` among those that four fonts or more cover. `limit`
    keeps the first so many code points (for tests). Raises DataError where matplotlib came
    without its fonts.
    """
    samples = _render_all(_font_folder(), limit)
    candidates = sorted(codepoint for codepoint in samples if len(samples[codepoint]) >= HELD_OUT_MIN_FONTS)
    rng = np.random.default_rng(seed)
    unseen = {int(codepoint) for codepoint in rng.choice(candidates, held_out, replace=False)}

    def split(name: str, codepoints: Iterable[int]) -> Split:
        ordered = [sample for codepoint in codepoints for sample in samples[codepoint]]
        shuffled = tuple(ordered[i] for i in rng.permutation(len(ordered)))
        return Split(name, shuffled, shards=-(-len(shuffled) // SHARD_SAMPLES))

    seen = sorted(samples.keys() - unseen)
    return Demo((split("train", seen), split("test", sorted(unseen))))


def _font_folder() -> Path:
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    missing = [name for name in FONTS if not (folder / f"{name}.ttf").is_file()]
    if missing:
        raise DataError(
            f"the demo 'glyphs' renders fonts that come with matplotlib, but {folder} lacks "
            f"{', '.join(missing)}; install matplotlib from PyPI: pip install --force-reinstall matplotlib"
        )
    return folder


def _render_all(folder: Path, limit: int | None) -> dict[int, list[Sample]]:
    """Code point -> its samples, one for each font that draws it, in the order of FONTS."""
    covered = {name: _named_characters(folder / f"{name}.ttf") for name in FONTS}
    chosen = set(sorted(set().union(*covered.values()))[:limit])
    samples: dict[int, list[Sample]] = {}
    for name in FONTS:
        sizes = _load_sizes(folder / f"{name}.ttf")
        for codepoint in sorted(covered[name] & chosen):
            image = render_glyph(chr(codepoint), sizes)
            if image is not None:
                samples.setdefault(codepoint, []).append(_sample(codepoint, name, image))
    return samples


def _named_characters(path: Path) -> set[int]:
    from matplotlib.ft2font import FT2Font

    return {
        codepoint
        for codepoint in FT2Font(str(path)).get_charmap()
        if unicodedata.name(chr(codepoint), "") and unicodedata.category(chr(codepoint))[0] in CATEGORIES
    }


def _load_sizes(path: Path) -> list[ImageFont.FreeTypeFont]:
    """The font in every size that may be needed, the largest first."""
    from PIL import ImageFont

    # Basic layout: the same glyph whether or not the machine has Raqm, which would shape Arabic.
    return [
        ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
        for size in range(LARGEST_SIZE, SMALLEST_SIZE - 1, -1)
    ]


def render_glyph(character: str, sizes: list[ImageFont.FreeTypeFont]) -> Image.Image | None:
    """32×32 `L` image, black on white, in the largest size that fits; None where there is no ink.

    The line's box is centred and not the ink, so that position and relative size remain: without
    them a comma is an apostrophe, and "c" is "C".
    """
    from PIL import Image, ImageDraw

    reach = SIDE // 2 - MARGIN

    def fits(font: ImageFont.FreeTypeFont) -> bool:
        left, top, right, bottom = font.getbbox(character, anchor="mm")
        return max(-left, -top, right, bottom) <= reach

    font = next((font for font in sizes if fits(font)), sizes[-1])
    image = Image.new("L", (SIDE, SIDE), color="white")
    ImageDraw.Draw(image).text((SIDE // 2, SIDE // 2), character, font=font, fill="black", anchor="mm")
    return None if image.getcolors(1) else image


def _sample(codepoint: int, font: str, image: Image.Image) -> Sample:
    name = unicodedata.name(chr(codepoint)).lower()
    facts: dict[str, str | int] = {"codepoint": codepoint, "character_name": name, "font": font}
    return Sample(encode_jpeg(image), name, SIDE, SIDE, facts)
