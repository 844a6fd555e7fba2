"""From an empty folder to an exported model of one's own tars, by the commands alone, as a new user types them."""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.orchestrator.command import TANDEM

pytestmark = pytest.mark.ray

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (220, 200, 40)}
SHAPES = ("circle", "square")


def photos(seed: int) -> Iterator[tuple[bytes, str]]:
    """24 pictures as JPEG, each with what it shows."""
    draw = random.Random(seed)
    for _ in range(24):
        colour, shape = draw.choice(list(COLOURS)), draw.choice(SHAPES)
        picture = Image.new("RGB", (64, 48), "white")
        x, y = draw.randrange(40), draw.randrange(24)
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "circle" else pen.rectangle)((x, y, x + 23, y + 23), fill=COLOURS[colour])
        content = io.BytesIO()
        picture.save(content, "JPEG")
        yield content.getvalue(), f"a {colour} {shape}"


def write_tars(folder: Path) -> None:
    folder.mkdir()
    for shard in range(3):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number, (picture, caption) in enumerate(photos(shard)):
                for extension, content in (("jpg", picture), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{shard:05}{number:04}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def test_from_ones_own_tars_to_an_exported_model(tmp_path: Path) -> None:
    def tandem(*arguments: str) -> str:
        done = subprocess.run(
            [str(TANDEM), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    write_tars(tmp_path / "shapes")
    said = tandem("init", "--from-shards", "shapes")
    assert said == "job.yaml: written, and tandem.schema.json for your editor. Next: tandem plan job.yaml\n"
    spec = (tmp_path / "job.yaml").read_text()
    assert 'urls: ["shapes/{00000..00001}.tar"]' in spec
    assert "over 48 samples" in spec

    # A smaller model, for fewer steps, than the spec says.
    small = ["--set", "training.passes=2", "--set", "training.schedule.warmup_steps=2"]
    small += ["--set", "model.image.layers=1", "--set", "model.text.layers=1"]
    plan = json.loads(tandem("plan", "job.yaml", *small, "-o", "json"))
    batch = plan["global_batch"]
    assert (plan["shards"], plan["samples"]) == (2, 48)
    assert plan["total_steps"] == 2 * (48 // batch)
    assert "run directory" in tandem("plan", "job.yaml", *small)

    said = tandem("run", "job.yaml", *small)
    steps = plan["total_steps"]
    assert f"step {steps}/{steps}" in said
    assert f"shapes: succeeded after {steps} steps" in said
    assert "mean_R@1" in said, "the score on the tar that was held out"
    assert f"{steps} of {steps}" in tandem("status", "shapes"), "by its name, beside the folder of its data"
    assert len(tandem("metrics", "shapes").splitlines()) == steps

    written = tandem("report", "shapes").strip()
    assert written == f"file://{tmp_path}/runs/shapes/report.html"
    page = (tmp_path / "runs" / "shapes" / "report.html").read_text()
    assert "held-out" in page
    assert "data:image/" in page, "thumbnails of neighbours"

    said = tandem("export", "shapes", "model")
    assert said == "model: transformers; README.md says how to use it\n"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "```python" in card
    assert "mean_R@1" in card
    names = {path.relative_to(tmp_path).parts[0] for path in tmp_path.iterdir()}
    assert names == {"shapes", "job.yaml", "tandem.schema.json", "runs", "model"}, "nothing else is left here"
