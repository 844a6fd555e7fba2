"""A checkpoint goes on under any number of ranks and any ZeRO stage, and damage is noticed."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from tests.ranks import run_ranks
from tests.workers.train.tiny import Tiny, Trace, engine, on_engine, training
from workers.storage import Storage
from workers.train.checkpoint import (
    CheckpointError,
    Manifest,
    UnknownFormatError,
    load,
    load_model,
    read_manifest,
    save,
    verify,
    withdraw,
)
from workers.train.engine import Engine
from workers.train.loss_scale import LossScale
from workers.train.optimizer import MOMENTS

SAVED_AT, STEPS = 2, range(2, 5)
STAGES = [0, 1, 2, 3]


def _save(uri: str, saved: Engine, step: int) -> Manifest:
    return save(
        Storage(),
        uri,
        saved,
        step=step,
        spec_hash="spec",
        index_fingerprint="index",
        masked_samples=4,
        attempt=2,
    )


@dataclass(frozen=True)
class Resumed:
    """A training that went on from the checkpoint."""

    stage: int
    manifest: Manifest
    trace: Trace
    again: str
    """The checkpoint that was saved right after loading."""


def _write(uri: str, stage: int) -> tuple[Manifest, Trace]:
    tiny = engine(stage)
    on_engine(tiny, range(SAVED_AT))
    return _save(uri, tiny, SAVED_AT), on_engine(tiny, STEPS)


def _resume(uri: str, stages: list[int]) -> list[Resumed]:
    resumed = []
    for stage in stages:
        tiny = engine(stage)
        on_engine(tiny, range(10, 11))  # all that is right afterwards comes from the files
        manifest = load(Storage(), uri, tiny)
        again = f"{uri}-again-{dist.get_world_size()}-{stage}"
        _save(again, tiny, SAVED_AT)
        resumed.append(Resumed(stage, manifest, on_engine(tiny, STEPS), again))
    return resumed


def _refusal(uri: str, unfit: Engine) -> str:
    with pytest.raises(CheckpointError) as raised:
        load(Storage(), uri, unfit)
    return str(raised.value)


def _write_and_resume(uri: str, stages: list[int]) -> tuple[Manifest, Trace, list[str], list[Resumed]]:
    manifest, trace = _write(uri, 1)
    unfrozen = Engine(Tiny().requires_grad_(True), training(0), 6, torch.device("cpu"))
    refusals = [_refusal(uri, engine(1, width=8)), _refusal(uri, unfrozen)]
    return manifest, trace, refusals, _resume(uri, stages)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@dataclass(frozen=True)
class Written:
    """A checkpoint of 2 ranks under ZeRO 1, how they went on, and the manifest on each."""

    path: Path
    uri: str
    trace: Trace
    manifests: list[Manifest]
    refusals: list[str]
    """What was raised for a wider model, and for one with fewer parameters frozen."""
    resumed: list[Resumed]
    """By the same two ranks."""


@pytest.fixture(scope="module")
def written(folder: Path) -> Written:
    path = folder / "step-00000002"
    uri = f"file://{path}"
    results = run_ranks(_write_and_resume, 2, uri, STAGES)
    _, trace, refusals, resumed = results[0]
    return Written(path, uri, trace, [manifest for manifest, *_ in results], refusals, resumed)


@functools.cache
def _resumed(uri: str, world_size: int) -> list[Resumed]:
    results: list[list[Resumed]] = run_ranks(_resume, world_size, uri, STAGES)
    return results[0]


def tensors(uri: str, kind: str) -> dict[str, Tensor]:
    whole: dict[str, Tensor] = {}
    for file in sorted(Path(uri.removeprefix("file://")).glob(f"{kind}-*.safetensors")):
        part = safetensors.torch.load_file(file)
        assert not part.keys() & whole.keys(), "a tensor is written twice"
        whole |= part
    return whole


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_goes_on_as_if_never_interrupted(written: Written, world_size: int, stage: int) -> None:
    resumed = written.resumed if world_size == 2 else _resumed(written.uri, world_size)
    (ours,) = [item for item in resumed if item.stage == stage]
    assert ours.manifest == written.manifests[0]
    assert ours.trace.losses == pytest.approx(written.trace.losses, rel=1e-5)
    assert ours.trace.norms == pytest.approx(written.trace.norms, rel=1e-5)
    for name, value in written.trace.state.items():
        torch.testing.assert_close(ours.trace.state[name], value, rtol=1e-5, atol=1e-6)
    # What was loaded and saved again is the same, bit by bit, whoever holds it.
    for kind in ("model", "optimizer"):
        before, after = tensors(written.uri, kind), tensors(ours.again, kind)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_holds_every_tensor_whole_by_name(written: Written) -> None:
    model, trained = Tiny(), [name for name, p in Tiny().named_parameters() if p.requires_grad]
    saved = tensors(written.uri, "model")
    assert {name: value.shape for name, value in saved.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert all(value.dtype == torch.float32 for value in saved.values())
    moments = tensors(written.uri, "optimizer")
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
        *(f"{kind}-a00002-{rank:05d}.safetensors" for kind in ("model", "optimizer") for rank in (0, 1)),
    }
    sizes = [(written.path / f"optimizer-a00002-{rank:05d}.safetensors").stat().st_size for rank in (0, 1)]
    assert max(sizes) < 1.5 * min(sizes)
    for path in written.path.glob("*.safetensors"):
        safetensors.torch.load_file(path)


def test_manifest_says_what_it_is(written: Written) -> None:
    manifest = verify(Storage(), written.uri)
    assert all(manifest == other for other in written.manifests)
    assert (manifest.step, manifest.world_size, manifest.attempt) == (2, 2, 2)
    assert (manifest.spec_hash, manifest.index_fingerprint, manifest.masked_samples) == ("spec", "index", 4)
    assert {file.name: file.size for file in manifest.files} == {
        path.name: path.stat().st_size for path in written.path.glob("*.safetensors")
    }
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_load_model_needs_no_ranks(written: Written) -> None:
    model = Tiny()
    assert load_model(Storage(), written.uri, model).step == 2
    saved = tensors(written.uri, "model")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


FILE = "model-a00002-00001.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda at: (at / "manifest.json").unlink(), "has no manifest: it was never committed"),
    "half a manifest": (lambda at: _truncate(at / "manifest.json"), "its manifest can't be read"),
    "a list": (lambda at: (at / "manifest.json").write_text("[]"), "its manifest can't be read"),
    "bytes": (lambda at: (at / "manifest.json").write_bytes(b"\xff\xfe"), "its manifest can't be read"),
    "other fields": (
        lambda at: (at / "manifest.json").write_text('{"format": 1, "files": []}'),
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
    with pytest.raises(CheckpointError, match=message):
        verify(Storage(), f"file://{copy}")
    with pytest.raises(CheckpointError, match=message):
        load_model(Storage(), f"file://{copy}", Tiny())


def test_another_format_is_refused(copy: Path) -> None:
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 7}))
    with pytest.raises(UnknownFormatError, match="checkpoint format 7 is not that of this version, 1"):
        read_manifest(Storage(), f"file://{copy}")


def test_another_model_is_refused(written: Written) -> None:
    """Of other names, and of other shapes under the same names."""
    other = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2)})
    with pytest.raises(CheckpointError, match=r"is of another model: missing \['first.bias', 'first.weight'\]"):
        load_model(Storage(), written.uri, other)
    with pytest.raises(CheckpointError, match=r"is of another model: of another shape \['first.3.bias', "):
        load_model(Storage(), written.uri, Tiny(width=8))
    wider, unfrozen = written.refusals
    assert "is of another model: of another shape ['first.3.bias', " in wider
    assert unfrozen == f"{written.uri} has no optimizer state of frozen.weight"


def test_leftovers_of_a_dead_attempt_are_no_checkpoint(folder: Path, written: Written) -> None:
    """Three ranks' files without a manifest, then two ranks write at the same place."""
    path = shutil.copytree(written.path, folder / "overwritten")
    shutil.copy(path / FILE, path / "model-a00001-00002.safetensors")
    manifest = read_manifest(Storage(), f"file://{path}")
    assert verify(Storage(), f"file://{path}") == manifest
    load_model(Storage(), f"file://{path}", Tiny())
    fewer = replace(manifest, files=manifest.files[:1])
    (path / "manifest.json").write_bytes(fewer.to_json())
    with pytest.raises(CheckpointError, match="is of another model: missing"):
        load_model(Storage(), f"file://{path}", Tiny())


def test_a_withdrawn_checkpoint_is_none_but_keeps_its_manifest(folder: Path, written: Written) -> None:
    path = shutil.copytree(written.path, folder / "withdrawn")
    withdraw(Storage(), f"file://{path}")
    with pytest.raises(CheckpointError, match="it was never committed"):
        read_manifest(Storage(), f"file://{path}")
    assert (path / "manifest.rejected.json").read_bytes() == (written.path / "manifest.json").read_bytes()


@dataclass(frozen=True)
class Exact:
    """A training in fp16 with a shared tower, and what went on from its checkpoint."""

    manifest: Manifest
    saved: Trace
    resumed: Trace
    names: set[str]


def _fp16(folder: str, stage: int) -> Exact:
    uri = f"{folder}-{stage}"
    tiny = engine(stage, "fp16", shared=True)
    tiny.loss_scale = LossScale(1024.0, 7)
    on_engine(tiny, range(1))
    with tiny.accumulation():
        tiny.backward(tiny("first", torch.full((1, 5), torch.inf)).sum())
    tiny.step(1e-3)
    on_engine(tiny, range(1, 2))
    manifest = _save(uri, tiny, 3)
    saved = on_engine(tiny, STEPS)
    again = engine(stage, "fp16", shared=True)
    assert load(Storage(), uri, again) == manifest
    assert (again.loss_scale, again.skipped_steps) == (manifest.loss_scale, manifest.skipped_steps)
    names = set(tensors(uri, "model"))
    model = Tiny(shared=True)
    load_model(Storage(), uri, model)
    assert model.second is model.first
    return Exact(manifest, saved, on_engine(again, STEPS), names)


def _fp16_all(folder: str) -> list[Exact]:
    return [_fp16(folder, stage) for stage in STAGES]


def test_fp16_goes_on_exactly(tmp_path: Path) -> None:
    """With the state of its loss scale, and the number of steps that the optimizer has not seen."""
    for results in run_ranks(_fp16_all, 2, f"file://{tmp_path}/fp16"):
        for exact in results:
            assert exact.manifest.loss_scale == LossScale(512.0, 1)
            assert exact.manifest.skipped_steps == 1
            assert Manifest.from_json(exact.manifest.to_json()) == exact.manifest
            assert exact.resumed.losses == exact.saved.losses
            assert exact.resumed.norms == exact.saved.norms
            assert all(torch.equal(exact.saved.state[name], value) for name, value in exact.resumed.state.items())
            # A tower of two sides is there once.
            assert {"first.0.weight", "scaling"} < exact.names
            assert not [name for name in exact.names if name.startswith("second")]
