"""What a checkpoint's files hold, what they are loaded into, and how damage is noticed.

That any configuration goes on from any other's is in `test_checkpoint_matrix.py`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.ranks import run_ranks
from tests.workers.train.saving import manifest_of, save, tensors
from tests.workers.train.tiny import SPLIT_ALL, Tiny, Trace, engine, on_engine, training
from workers.storage import Storage
from workers.train.checkpoint import (
    CheckpointError,
    Manifest,
    UnknownFormatError,
    load,
    load_model,
    read_manifest,
    verify,
    withdraw,
)
from workers.train.engine import Engine
from workers.train.loss_scale import LossScale
from workers.train.optimizer import MOMENTS

SAVED_AT, STEPS = 2, range(2, 5)
STAGES = [0, 1, 2, 3]
FOLDER = f"checkpoints/step-{SAVED_AT:08d}"


def _refusal(uri: str, unfit: Engine) -> str:
    with pytest.raises(CheckpointError) as raised:
        load(Storage(), uri, unfit)
    return str(raised.value)


@dataclass(frozen=True)
class Exact:
    """A training in fp16 with a shared tower, and what went on from its checkpoint."""

    manifest: Manifest
    saved: Trace
    resumed: Trace
    names: set[str]


@dataclass(frozen=True)
class OfRank:
    """What a rank of the tests' only group found."""

    manifest: Manifest
    expected: Manifest
    """But for its files."""
    refusals: list[str]
    """What was raised for a wider model, and for one with fewer parameters frozen."""
    exact: list[Exact]
    """By stage, and stage 3 once more."""


def _write_and_load(root: str) -> OfRank:
    """Under ZeRO 1, then in fp16 under all stages."""
    tiny = engine(1)
    on_engine(tiny, range(SAVED_AT))
    manifest = save(root, tiny, SAVED_AT)
    unfrozen = Engine(Tiny().requires_grad_(True), training(0), 6, torch.device("cpu"))
    refusals = [_refusal(f"{root}/{FOLDER}", unfit) for unfit in (engine(1, width=8), unfrozen)]
    # The last as DeepSpeed would have it: small parameters stay whole on every rank.
    sections: list[dict[str, Any]] = [*[SPLIT_ALL] * len(STAGES), {}]
    exact = [
        _fp16(f"{root}-fp16-{number}", stage, section)
        for number, (stage, section) in enumerate(zip([*STAGES, 3], sections, strict=True))
    ]
    return OfRank(manifest, manifest_of(tiny, SAVED_AT), refusals, exact)


def _fp16(root: str, stage: int, section: dict[str, Any]) -> Exact:
    tiny = engine(stage, "fp16", shared=True, section=section)
    tiny.loss_scale = LossScale(1024.0, 7)
    on_engine(tiny, range(1))
    with tiny.accumulation():
        tiny.backward(tiny("first", torch.full((1, 5), torch.inf)).sum())
    tiny.step(1e-3)
    on_engine(tiny, range(1, 2))
    manifest = save(root, tiny, 3)
    saved = on_engine(tiny, STEPS)
    again = engine(stage, "fp16", shared=True, section=section)
    uri = f"{root}/checkpoints/step-00000003"
    assert load(Storage(), uri, again) == manifest
    assert (again.loss_scale, again.skipped_steps) == (manifest.loss_scale, manifest.skipped_steps)
    model = Tiny(shared=True)
    load_model(Storage(), uri, model)
    assert model.second is model.first
    return Exact(manifest, saved, on_engine(again, STEPS), set(tensors(Path(uri.removeprefix("file://")), "model")))


@dataclass(frozen=True)
class Written:
    """A checkpoint of 2 ranks under ZeRO 1."""

    path: Path
    uri: str
    of_ranks: list[OfRank]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def written(folder: Path) -> Written:
    of_ranks = run_ranks(_write_and_load, 2, f"file://{folder}/run")
    return Written(folder / "run" / FOLDER, f"file://{folder}/run/{FOLDER}", of_ranks)


def test_holds_every_tensor_by_name(written: Written) -> None:
    model, trained = Tiny(), [name for name, p in Tiny().named_parameters() if p.requires_grad]
    saved = tensors(written.path, "model")
    assert {name: value.shape for name, value in saved.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert all(value.dtype == torch.float32 for value in saved.values())
    moments = tensors(written.path, "optimizer")
    assert moments.keys() == {f"{key}.{name}" for key in MOMENTS for name in trained}
    for name, parameter in model.named_parameters():
        for key in MOMENTS if parameter.requires_grad else ():
            assert moments[f"{key}.{name}"].shape == parameter.shape
            assert moments[f"{key}.{name}"].any()
    assert torch.equal(saved["frozen.weight"], model.frozen.weight)


def test_is_spread_over_the_ranks_and_unpickled(written: Written) -> None:
    names = {path.name for path in written.path.iterdir()}
    assert names == {
        "manifest.json",
        *(f"{kind}-a00002-r{rank:05d}-000.safetensors" for kind in ("model", "optimizer") for rank in (0, 1)),
    }
    for kind in ("model", "optimizer"):
        sizes = [(written.path / f"{kind}-a00002-r{rank:05d}-000.safetensors").stat().st_size for rank in (0, 1)]
        assert max(sizes) < 1.5 * min(sizes)
    for path in written.path.glob("*.safetensors"):
        safetensors.torch.load_file(path)


def test_manifest_says_what_it_is(written: Written) -> None:
    manifest = verify(Storage(), written.uri)
    assert all(manifest == of_rank.manifest for of_rank in written.of_ranks)
    assert replace(manifest, files=(), seconds=0.0) == written.of_ranks[0].expected
    assert {file.name: file.size for file in manifest.files} == {
        path.name: path.stat().st_size for path in written.path.glob("*.safetensors")
    }
    assert Manifest.from_json(manifest.to_json(), written.uri) == manifest


def test_load_model_needs_no_ranks(written: Written) -> None:
    model = Tiny()
    assert load_model(Storage(), written.uri, model).step == 2
    saved = tensors(written.path, "model")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


FILE = "model-a00002-r00001-000.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda at: (at / "manifest.json").unlink(), "has no manifest: it was never committed"),
    "half a manifest": (lambda at: _truncate(at / "manifest.json"), "its manifest can't be read"),
    "a list": (lambda at: (at / "manifest.json").write_text("[]"), "its manifest can't be read"),
    "bytes": (lambda at: (at / "manifest.json").write_bytes(b"\xff\xfe"), "its manifest can't be read"),
    "other fields": (
        lambda at: (at / "manifest.json").write_text('{"format": 2, "files": []}'),
        "its manifest can't be read",
    ),
    "truncated": (lambda at: _truncate(at / FILE), f"{FILE} has .* bytes, the manifest says"),
    "flipped": (lambda at: _flip(at / FILE), f"{FILE} has another sha256 than the manifest says"),
    "missing": (lambda at: (at / FILE).unlink(), f"{FILE} is missing"),
}


@pytest.fixture
def copy(written: Written, tmp_path: Path) -> Path:
    return shutil.copytree(written.path, tmp_path / "copy")


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(copy: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_model(Storage(), f"file://{copy}", Tiny())
    assert f"file://{copy}" in str(raised.value)
    if kind == "flipped":  # what the ranks notice that read it
        verify(Storage(), f"file://{copy}")
    with pytest.raises(CheckpointError, match=message):
        verify(Storage(), f"file://{copy}", content=kind == "flipped")


@pytest.mark.parametrize("number", [1, 7])
def test_another_format_is_refused(copy: Path, number: int) -> None:
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": number}))
    with pytest.raises(UnknownFormatError, match=f"checkpoint format {number} is not that of this version, 2"):
        read_manifest(Storage(), f"file://{copy}")


def test_another_model_is_refused(written: Written) -> None:
    """Of other names, and of other shapes under the same names."""
    other = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2)})
    with pytest.raises(CheckpointError, match=r"is of another model: missing \['first.bias', 'first.weight'\]"):
        load_model(Storage(), written.uri, other)
    with pytest.raises(CheckpointError, match=r"is of another model: of another shape \['first.3.bias', "):
        load_model(Storage(), written.uri, Tiny(width=8))
    for of_rank in written.of_ranks:
        wider, unfrozen = of_rank.refusals
        assert "is of another model: of another shape ['first.3.bias', " in wider
        assert unfrozen == (
            f"{written.uri} does not hold exp_avg.frozen.weight, of 45 elements, once and whole: there is none of it"
        )


def test_leftovers_of_a_dead_attempt_are_no_checkpoint(folder: Path, written: Written) -> None:
    """Three ranks' files without a manifest, then two ranks write at the same place."""
    path = shutil.copytree(written.path, folder / "overwritten")
    shutil.copy(path / FILE, path / "model-a00001-r00002-000.safetensors")
    manifest = read_manifest(Storage(), f"file://{path}")
    assert verify(Storage(), f"file://{path}") == manifest
    load_model(Storage(), f"file://{path}", Tiny())


@pytest.mark.parametrize("twice", [True, False])
def test_pieces_that_are_not_the_whole_are_refused(copy: Path, twice: bool) -> None:
    """Of files that are all as the manifest says."""
    manifest = read_manifest(Storage(), f"file://{copy}")
    files = tuple(file for file in manifest.files if twice or file.name != FILE)
    (copy / "manifest.json").write_bytes(replace(manifest, files=files * (1 + twice)).to_json())
    with pytest.raises(
        CheckpointError, match=r"does not hold [\w.]+, of \d+ elements, once and whole: (there|elements)"
    ):
        load_model(Storage(), f"file://{copy}", Tiny())


def test_a_withdrawn_checkpoint_is_none_but_keeps_its_manifest(folder: Path, written: Written) -> None:
    path = shutil.copytree(written.path, folder / "withdrawn")
    withdraw(Storage(), f"file://{path}")
    with pytest.raises(CheckpointError, match="it was never committed"):
        read_manifest(Storage(), f"file://{path}")
    assert (path / "manifest.rejected.json").read_bytes() == (written.path / "manifest.json").read_bytes()


def test_fp16_goes_on_exactly(written: Written) -> None:
    """With the state of its loss scale, and the number of steps that the optimizer has not seen."""
    for exact in (exact for of_rank in written.of_ranks for exact in of_rank.exact):
        assert exact.manifest.loss_scale == LossScale(512.0, 1)
        assert exact.manifest.skipped_steps == 1
        assert exact.resumed.losses == exact.saved.losses
        assert exact.resumed.norms == exact.saved.norms
        assert all(torch.equal(exact.saved.state[name], value) for name, value in exact.resumed.state.items())
        # A tower of two sides is there once.
        assert {"first.0.weight", "scaling"} < exact.names
        assert not [name for name in exact.names if name.startswith("second")]
