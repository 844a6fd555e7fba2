"""Demo data sets: layout, determinism, disjoint splits, and what may never be overwritten."""

import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from jobspecs.errors import DataError, StorageError, UsageError
from workers.data import demo as demo_module
from workers.data.demo import DEMOS, DemoSummary, write_demo
from workers.data.demo_digits import CLASS_NAMES
from workers.data.demo_glyphs import FONTS, glyphs
from workers.data.demo_tar import Demo, Sample, Split

LETTERS = 150
"""Characters in the small `glyphs`: ASCII and the start of Latin-1."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return write_demo("digits", tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def few_glyphs() -> Demo:
    return glyphs(0, limit=LETTERS, held_out=20)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of three samples in two train shards and one test shard; its captions show the seed."""

    def make(seed: int) -> Demo:
        samples = tuple(Sample(b"\xff\xd8", f"caption {n} é, seed {seed}", 1, 1, {"n": n}) for n in range(4))
        return Demo((Split("train", samples[:3], 2), Split("test", samples[3:], 1)), labels=("a", "b"))

    monkeypatch.setitem(DEMOS, "tiny", make)


def read_shard(path: Path) -> list[dict[str, bytes]]:
    """Samples of a tar in order, extension -> bytes; checks that each one's members are adjacent."""
    samples: list[dict[str, bytes]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            key, extension = member.name.split(".")
            if extension == "jpg":
                samples.append({"key": key.encode()})
            assert samples[-1]["key"] == key.encode()
            samples[-1][extension] = stream.read()
    return samples


def read_split(directory: Path) -> list[dict[str, bytes]]:
    return [sample for path in sorted(directory.glob("*.tar")) for sample in read_shard(path)]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_digits_has_the_layout_of_img2dataset(digits: DemoSummary) -> None:
    shards = [f"train/0000{n}" for n in range(4)] + ["test/00000"]
    expected = {f"{shard}{end}" for shard in shards for end in (".tar", "_stats.json")}
    assert contents(digits.directory).keys() == expected | {"labels.txt"}
    for split in digits.splits:
        for path in split.directory.glob("*.tar"):
            samples = read_shard(path)
            assert [s["key"].decode() for s in samples] == [f"{path.stem}{n:04d}" for n in range(len(samples))]
            assert all(sample.keys() == {"key", "jpg", "txt", "json"} for sample in samples)
            stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
            assert stats["count"] == stats["successes"] == len(samples)
            assert stats["failed_to_download"] == stats["failed_to_resize"] == 0


def test_webdataset_reads_it(digits: DemoSummary) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    path = digits.splits[1].directory / "00000.tar"
    with path.open("rb") as stream:
        read = list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
    assert [sample["json"] for sample in read] == [sample["json"] for sample in read_shard(path)]


def test_digits_splits_are_stratified_and_disjoint(digits: DemoSummary) -> None:
    train, test = digits.splits
    assert [(s.name, s.samples, s.shards) for s in digits.splits] == [("train", 1437, 4), ("test", 360, 1)]
    assert train.tar_bytes == sum(path.stat().st_size for path in train.directory.glob("*.tar"))
    described = {s.name: [json.loads(x["json"]) for x in read_split(s.directory)] for s in (train, test)}
    scans = [d["scan"] for split in described.values() for d in split]
    assert sorted(scans) == list(range(1797))
    # The scans hold 174 to 183 of each digit; a fifth of that is 34.8 to 36.7.
    assert set(Counter(d["label"] for d in described["test"]).values()) <= {34, 35, 36, 37}


def test_digits_samples_are_the_scans_of_scikit_learn(digits: DemoSummary) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    scans = load_digits()
    for sample in read_split(digits.splits[1].directory):
        described = json.loads(sample["json"])
        name = CLASS_NAMES[scans.target[described["scan"]]]
        assert (CLASS_NAMES[described["label"]], described["class_name"]) == (name, name)
        assert name in sample["txt"].decode()
        assert described["caption"] == sample["txt"].decode()
        image = Image.open(io.BytesIO(sample["jpg"]))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
        assert (described["width"], described["height"]) == image.size
        shrunk = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX)) / 255 * 16
        assert np.corrcoef(shrunk.ravel(), scans.images[described["scan"]].ravel())[0, 1] > 0.95


def test_digits_labels_are_in_label_order_and_captions_vary(digits: DemoSummary) -> None:
    assert tuple((digits.directory / "labels.txt").read_text().splitlines()) == CLASS_NAMES
    captions = {sample["txt"] for sample in read_split(digits.splits[0].directory)}
    assert len(captions) == 8 * 10


def test_same_seed_same_bytes_other_seed_other_split(digits: DemoSummary, tmp_path: Path) -> None:
    again = write_demo("digits", tmp_path / "again")
    assert contents(again.directory) == contents(digits.directory)
    other = write_demo("digits", tmp_path / "other", seed=1)
    assert contents(other.directory).keys() == contents(digits.directory).keys()
    assert read_split(other.splits[1].directory) != read_split(digits.splits[1].directory)


def test_glyphs_are_reproducible(few_glyphs: Demo) -> None:
    assert glyphs(0, limit=LETTERS, held_out=20) == few_glyphs
    assert glyphs(1, limit=LETTERS, held_out=20) != few_glyphs


def test_held_out_characters_are_in_no_font_of_the_training_split(few_glyphs: Demo) -> None:
    train, test = few_glyphs.splits
    seen = {sample.facts["codepoint"] for sample in train.samples}
    unseen = Counter(sample.facts["codepoint"] for sample in test.samples)
    assert len(unseen) == 20
    assert not seen & unseen.keys()
    assert len(seen) + len(unseen) <= LETTERS
    # Every one of the eight fonts covers all of Latin-1, so each character comes in all of them.
    assert set(unseen.values()) == {len(FONTS)}
    pairs = [(s.facts["codepoint"], s.facts["font"]) for s in train.samples + test.samples]
    assert len(set(pairs)) == len(pairs)


def test_glyphs_are_captioned_with_their_unicode_names(few_glyphs: Demo) -> None:
    captions = {s.facts["codepoint"]: s.caption for split in few_glyphs.splits for s in split.samples}
    assert captions[ord("A")] == "latin capital letter a"
    assert captions[ord(",")] == "comma"
    assert ord(" ") not in captions
    assert all(s.caption == s.facts["character_name"] for s in few_glyphs.splits[0].samples)


def test_glyphs_have_ink_and_keep_clear_of_the_border(few_glyphs: Demo) -> None:
    import numpy as np
    from PIL import Image

    for sample in few_glyphs.splits[0].samples:
        pixels = np.asarray(Image.open(io.BytesIO(sample.jpeg)).convert("L"))
        assert pixels.shape == (32, 32)
        assert pixels.min() < 160, sample.caption
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        # JPEG rings by a few grey levels around ink that ends one pixel away.
        assert border.min() > 200, sample.caption


def test_glyphs_without_matplotlib_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"lacks DejaVuSans, .*install matplotlib from PyPI"):
        glyphs(0)


@pytest.mark.usefixtures("tiny")
def test_shards_split_evenly_and_carry_fixed_metadata(tmp_path: Path) -> None:
    write_demo("tiny", tmp_path)
    assert [len(read_shard(tmp_path / f"train/0000{n}.tar")) for n in (0, 1)] == [1, 2]
    with tarfile.open(tmp_path / "train/00001.tar") as tar:
        assert [member.name for member in tar][:4] == [
            "000010000.jpg",
            "000010000.txt",
            "000010000.json",
            "000010001.jpg",
        ]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


@pytest.mark.usefixtures("tiny")
def test_what_an_interrupted_call_left_is_completed(tmp_path: Path) -> None:
    write_demo("tiny", tmp_path)
    whole = contents(tmp_path)
    (tmp_path / "train/00001.tar").rename(tmp_path / "train/00001.tar.partial")
    (tmp_path / "train/00001.tar.partial").write_bytes(b"half")
    (tmp_path / "labels.txt").unlink()
    write_demo("tiny", tmp_path)
    assert contents(tmp_path) == whole


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("stray", ["notes.md", "train/00000.tar", "train/00007.tar", "train/.hidden"])
def test_files_of_others_are_refused_and_kept(tmp_path: Path, stray: str) -> None:
    path = tmp_path / stray
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"not of the demo 'tiny' with seed 0: .*Nothing was written") as error:
        write_demo("tiny", tmp_path)
    assert stray in str(error.value)
    assert contents(tmp_path) == {stray: b"precious"}


@pytest.mark.usefixtures("tiny")
def test_another_seed_does_not_overwrite(tmp_path: Path) -> None:
    write_demo("tiny", tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"with seed 5: test/00000\.tar and 2 more"):
        write_demo("tiny", tmp_path, seed=5)
    assert contents(tmp_path) == before


def test_unknown_kind(tmp_path: Path) -> None:
    expected = "no demo 'digit': choose one of digits, glyphs, stdlib; did you mean 'digits'"
    with pytest.raises(UsageError, match=expected):
        write_demo("digit", tmp_path)
    with pytest.raises(UsageError, match=r"no demo 'cifar': choose one of digits, glyphs, stdlib$"):
        write_demo("cifar", tmp_path)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match=rf"seed of a demo is {seed}, expected 0 to 4294967295"):
        write_demo("digits", tmp_path, seed=seed)


@pytest.mark.usefixtures("tiny")
def test_target_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file is a file; a demo needs a directory"):
        write_demo("tiny", tmp_path / "file")


@pytest.mark.usefixtures("tiny")
def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"can't write the demo 'tiny' to .*Not a directory"):
        write_demo("tiny", tmp_path / "file" / "below")


def test_importing_it_is_light() -> None:
    heavy = ("torch", "ray", "webdataset", "sklearn", "matplotlib", "PIL")
    code = f"import sys, {demo_module.__name__}; print([m for m in {heavy} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
