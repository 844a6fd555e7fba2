"""Checkpoint files: the whole state by parameter name, as safetensors, and the manifest that commits them.

    checkpoints/step-00000100/
        model-a00001-r00000-000.safetensors …       parameters and buffers, fp32
        optimizer-a00001-r00000-000.safetensors …   `exp_avg.<name>`, `exp_avg_sq.<name>`
        ema-a00001-r00000-000.safetensors …         `ema.<name>`, fp32, where the spec has `training.ema`
        manifest.json                               written last: there is no checkpoint without it

Attempt, rank and number are in the names: what a dead attempt left, or a late one still writes, is never another's.

A tensor is there whole under its name, or in pieces `<name>[start:stop]`, elements of it when flattened; the manifest
has the shapes. How it is cut says how ranks held it and nothing else: any number of ranks under any ZeRO stage loads
it. Nothing is pickled. Who writes a checkpoint is `saver.py`, who commits it `commit.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from jobspecs.errors import NotFoundError, TandemError
from workers.storage import Storage, join
from workers.train.engine import Engine, Kind
from workers.train.loss_scale import LossScale
from workers.train.optimizer import MOMENTS
from workers.train.partition import Held, held_of_module, whole_names
from workers.train.pulse import pulse

FORMAT = 2


class CheckpointError(TandemError):
    """A checkpoint is incomplete, damaged, or of another model."""


class OtherModelError(CheckpointError):
    """A checkpoint of another model: not damaged, so no other checkpoint of the run fits better."""


class UnknownFormatError(TandemError):
    """A checkpoint of another version of Tandem: not damaged, so nothing may take its place."""


@dataclass(frozen=True)
class File:
    """A file of a checkpoint."""

    name: str
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is. The step is the data cursor and all the scheduler's state."""

    step: int
    """Optimizer steps done."""
    spec_hash: str
    index_fingerprint: str
    masked_samples: int
    """Samples of the run so far that were masked."""
    attempt: int
    world_size: int
    """Ranks that wrote it."""
    shapes: dict[str, tuple[int, ...]]
    """Of each parameter and buffer, by name."""
    files: tuple[File, ...] = ()
    skipped_steps: int = 0
    """Steps of the run so far whose gradient was not finite: the optimizer has not seen them."""
    loss_scale: LossScale | None = None
    """State of fp16's loss scaling."""
    averaged: tuple[str, ...] = ()
    """Names of the parameters and buffers whose average is there too."""
    seconds: float = 0.0
    """From the copy of the state to this commit."""
    format: int = FORMAT

    def to_json(self) -> bytes:
        """As stored in manifest.json."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes, uri: str) -> Manifest:
        """The inverse of `to_json`, of the checkpoint at `uri`. Raises CheckpointError, UnknownFormatError."""
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise UnknownFormatError(
                    f"{uri}: checkpoint format {fields['format']} is not that of this version, {FORMAT}. Go on with "
                    "the version of Tandem that wrote it, or give the job another name."
                )
            for file in fields["files"]:
                if not re.fullmatch(r"[\w-]+\.safetensors", file["name"]):
                    raise CheckpointError(
                        f"{uri}: its manifest names {file['name']!r}, which is no file of a checkpoint"
                    )
            scale = fields.get("loss_scale")
            return cls(
                **{
                    **fields,
                    "shapes": {name: tuple(shape) for name, shape in fields["shapes"].items()},
                    "files": tuple(File(**file) for file in fields["files"]),
                    "loss_scale": scale if scale is None else LossScale(**scale),
                    "averaged": tuple(fields.get("averaged", ())),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{uri}: its manifest can't be read: {error}") from error


def read_manifest(storage: Storage, uri: str) -> Manifest:
    """The manifest of the checkpoint at `uri`. Raises CheckpointError, UnknownFormatError, StorageError."""
    try:
        return Manifest.from_json(storage.read(join(uri, "manifest.json")), uri)
    except NotFoundError as error:
        raise CheckpointError(f"{uri} has no manifest: it was never committed") from error


def withdraw(storage: Storage, uri: str) -> None:
    """Takes back the commit of a checkpoint that is no good; its manifest stays under another name."""
    manifest = join(uri, "manifest.json")
    storage.write(join(uri, "manifest.rejected.json"), storage.read(manifest))
    storage.delete(manifest)


def verify(storage: Storage, uri: str, *, content: bool = False) -> Manifest:
    """The manifest of `uri`, after every file was found there with its size. What is in the files is left to those who
    load them, or is read too if `content`. Raises CheckpointError, UnknownFormatError, StorageError."""
    manifest = read_manifest(storage, uri)
    sizes = {info.uri: info.size for info in storage.list(uri)}
    for file in manifest.files:
        size = sizes.get(join(uri, file.name))
        if size is None:
            raise CheckpointError(f"{join(uri, file.name)} is missing")
        _check_size(uri, file, size)
    for file in manifest.files if content else ():
        _read_file(storage, uri, file)
    return manifest


def load(storage: Storage, uri: str, engine: Engine) -> Manifest:
    """Loads a checkpoint into `engine`, whatever wrote it. Every rank reads all files, one at a time, and keeps what
    is its own. Raises CheckpointError, UnknownFormatError, StorageError."""
    manifest = read_manifest(storage, uri)
    _check_fits(engine.shapes, manifest, uri)
    sizes: dict[Kind, dict[str, int]] = {
        "model": {name: shape.numel() for name, shape in engine.shapes.items()},
        "optimizer": {f"{key}.{name}": engine.shapes[name].numel() for key in MOMENTS for name in engine.trained},
        "ema": {f"ema.{name}": engine.shapes[name].numel() for name in engine.averaged},
    }
    with engine.restoring(manifest.step, manifest.loss_scale, manifest.skipped_steps) as state:
        for kind, held in state.items():
            _fill(held, sizes[kind], _pieces(storage, uri, manifest, kind), uri)
    return manifest


def load_model(storage: Storage, uri: str, module: nn.Module, *, raw: bool = False) -> Manifest:
    """Loads the parameters and buffers of a checkpoint alone, as evaluations need them: the average of those that
    have one, or if `raw` as training left them."""
    manifest = read_manifest(storage, uri)
    tensors = dict(whole_names(module))
    _check_fits({name: tensor.shape for name, tensor in tensors.items()}, manifest, uri)
    averaged = () if raw else manifest.averaged
    held: dict[Kind, list[Held]] = {"model": [], "ema": []}
    for name, tensor in tensors.items():
        if name in averaged:
            held["ema"].append(held_of_module(tensor, f"ema.{name}", tensor.shape))
        else:
            held["model"].append(held_of_module(tensor, name, tensor.shape))
    with torch.no_grad():
        for kind in held:
            sizes = {one.name: one.shape.numel() for one in held[kind]}
            _fill(held[kind], sizes, _pieces(storage, uri, manifest, kind) if sizes else (), uri)
    return manifest


def _check_fits(shapes: Mapping[str, torch.Size], manifest: Manifest, uri: str) -> None:
    """Raises OtherModelError where the checkpoint at `uri` is not that of a model with `shapes`."""
    there = manifest.shapes
    faults = {
        "missing": sorted(shapes.keys() - there.keys()),
        "unexpected": sorted(there.keys() - shapes.keys()),
        "of another shape": sorted(name for name in shapes.keys() & there.keys() if tuple(shapes[name]) != there[name]),
    }
    if any(faults.values()):
        found = ", ".join(f"{fault} {names[:3]}" for fault, names in faults.items() if names)
        raise OtherModelError(f"{uri} is of another model: {found}")


@dataclass(frozen=True)
class _Piece:
    name: str
    start: int
    """First element, of the flattened whole."""
    values: Tensor
    """(n,)."""


def _fill(held: Iterable[Held], sizes: Mapping[str, int], pieces: Iterable[_Piece], uri: str) -> None:
    """Sets what this rank holds from `pieces` in any order. `sizes`: elements of each tensor that must be there.

    Raises CheckpointError where the pieces of one don't add up to it.
    """
    held_by_name = {one.name: one for one in held}
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in sizes}
    for piece in pieces:
        stop = piece.start + piece.values.numel()
        if piece.name in found:
            found[piece.name].append((piece.start, stop))
        if (one := held_by_name.get(piece.name)) is not None:
            first, last = max(one.start, piece.start), min(one.start + one.values.numel(), stop)
            if first < last:
                own = one.values[first - one.start : last - one.start]
                own.copy_(piece.values[first - piece.start : last - piece.start])
    for name, size in sizes.items():
        end = 0
        for start, stop in [*sorted(found[name]), (size, size)]:
            if start != end:
                what = "there is none of it" if not found[name] else f"elements {min(start, end)}:{max(start, end)}"
                raise CheckpointError(f"{uri} does not hold {name}, of {size} elements, once and whole: {what}")
            end = stop


def _pieces(storage: Storage, uri: str, manifest: Manifest, kind: Kind) -> Iterator[_Piece]:
    for file in manifest.files:
        if file.name.startswith(f"{kind}-"):
            pulse.moved()
            for name, values in _tensors(storage, uri, file).items():
                piece = re.fullmatch(r"(.+)\[(\d+):\d+\]", name)
                yield _Piece(piece[1] if piece else name, int(piece[2]) if piece else 0, values.view(-1))


def _tensors(storage: Storage, uri: str, file: File) -> dict[str, Tensor]:
    content = _read_file(storage, uri, file)
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{join(uri, file.name)} is no safetensors file: {error}") from error


def _read_file(storage: Storage, uri: str, file: File) -> bytes:
    try:
        content = storage.read(join(uri, file.name))
    except NotFoundError as error:
        raise CheckpointError(f"{join(uri, file.name)} is missing") from error
    _check_size(uri, file, len(content))
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise CheckpointError(f"{join(uri, file.name)} has another sha256 than the manifest says")
    return content


def _check_size(uri: str, file: File, size: int) -> None:
    if size != file.size:
        raise CheckpointError(f"{join(uri, file.name)} has {size} bytes, the manifest says {file.size}")
