"""Models in folders: found from every folder, and the same experiment in each."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspecs.diff import differences
from jobspecs.identity import Effect
from jobspecs.job import JobSpec
from jobspecs.load import dumps, load, loads
from jobspecs.mining import Mining
from orchestrator.absolute_uris import absolute_uris
from orchestrator.named_uris import named_models
from tests.orchestrator.conftest import EXAMPLE


def clip(name: str) -> JobSpec:
    """The example with an image tower, a text tower and a tokenizer of that name."""
    section = f"{{kind: pretrained, name: '{name}'}}"
    places = ("model.image", "model.text", "data.text.tokenizer")
    return load(EXAMPLE, tuple(f"{place}={section}" for place in places))


def names(spec: JobSpec) -> set[str]:
    return {name for _, name in named_models(spec)}


@pytest.mark.parametrize("name", ["clip", "models/clip", "./models/clip", "../here/models/clip"])
def test_a_folder_is_found_from_everywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, hashes = clip(name), set()
    for place in ("one", "other"):
        here = tmp_path / place / "here"
        for folder in ("clip", "models/clip"):
            (here / folder).mkdir(parents=True)
        monkeypatch.chdir(here)
        kept = loads(dumps(absolute_uris(spec)), "kept")
        monkeypatch.chdir("/")
        (found,) = names(kept)
        assert Path(found).samefile(here / name)
        assert absolute_uris(kept) == kept
        hashes.add(kept.experiment_hash())
        changed = [each for each in differences(spec, kept) if each.meaning.effect is Effect.EXPERIMENT]
        assert changed == []
    assert hashes == {spec.experiment_hash()}


@pytest.mark.parametrize("name", ["openai/clip", "/data/clip", "/data/./clip", "~/clip"])
def test_other_names_stay(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names(absolute_uris(clip(name))) == {name}


def test_another_folder_is_another_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = absolute_uris(clip("a")), absolute_uris(clip("b"))
    assert one.experiment_hash() != other.experiment_hash()
    assert "model.image.name: a -> b" in map(str, differences(one, other))


@pytest.mark.parametrize(
    ("model", "is_here"),
    [
        ("runs/first", True),
        ("./first", True),
        ("local", True),
        ("first", False),
        ("s3://bucket/runs/first", False),
        ("file:///runs/first", False),
        ("/runs/first", False),
        ("bm25", False),
    ],
)
def test_the_run_that_mines(model: str, is_here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is that of a run below the root, but where a folder here holds one."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "spec.yaml").touch()
    monkeypatch.chdir(tmp_path)
    spec = load(EXAMPLE, ("storage.root=s3://bucket/runs",))
    spec = spec.model_copy(update={"mining": Mining(model=model, before_training=True)})
    mining = absolute_uris(spec).mining
    assert mining is not None
    assert mining.model == (f"{tmp_path}/./{model}" if is_here else model)
    assert absolute_uris(spec).experiment_hash() == spec.experiment_hash()
