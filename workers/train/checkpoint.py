"""Checkpoint files: the whole state by parameter name, as safetensors, and the manifest that commits them.

    checkpoints/step-00000100/
        model-a00001-00000.safetensors …       parameters and buffers, fp32
        optimizer-a00001-00000.safetensors …   `exp_avg.<name>`, `exp_avg_sq.<name>`
        manifest.json                          written last: there is no checkpoint without it

The attempt is in the names: what a dead attempt left, or a late one still writes, is never another's.

Parameters are spread over the ranks for writing only. Nothing in the files depends on how many ranks
wrote them or under which ZeRO stage, and nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from jobspecs.errors import NotFoundError, TandemError
from workers.storage import Storage, join
from workers.train.engine import Engine, State
from workers.train.loss_scale import LossScale
from workers.train.optimizer import MOMENTS
from workers.train.partition import whole_names

FORMAT = 1


class CheckpointError(TandemError):
    """A checkpoint is incomplete, damaged, or of another model."""


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
    files: tuple[File, ...]
    skipped_steps: int = 0
    """Steps of the run so far whose gradient was not finite: the optimizer has not seen them."""
    loss_scale: LossScale | None = None
    """State of fp16's loss scaling."""
    format: int = FORMAT

    def to_json(self) -> bytes:
        """As stored in manifest.json."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """The inverse of `to_json`. Raises CheckpointError, UnknownFormatError."""
        try:
            fields = json.loads(data)
            if fields["format"] != FORMAT:
                raise UnknownFormatError(
                    f"checkpoint format {fields['format']} is not that of this version, {FORMAT}. Go on with the "
                    "version of Tandem that wrote it, or give the job another name."
                )
            scale = fields.get("loss_scale")
            return cls(
                **{
                    **fields,
                    "files": tuple(File(**file) for file in fields["files"]),
                    "loss_scale": scale if scale is None else LossScale(**scale),
                }
            )
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"its manifest can't be read: {error}") from error


def read_manifest(storage: Storage, uri: str) -> Manifest:
    """The manifest of the checkpoint at `uri`. Raises CheckpointError."""
    try:
        return Manifest.from_json(storage.read(join(uri, "manifest.json")))
    except NotFoundError as error:
        raise CheckpointError("it has no manifest: it was never committed") from error


def withdraw(storage: Storage, uri: str) -> None:
    """Takes back the commit of a checkpoint that is no good; its manifest stays under another name."""
    manifest = join(uri, "manifest.json")
    storage.write(join(uri, "manifest.rejected.json"), storage.read(manifest))
    storage.delete(manifest)


def verify(storage: Storage, uri: str) -> Manifest:
    """The manifest of `uri`, after every file was found as it says. Raises CheckpointError."""
    manifest = read_manifest(storage, uri)
    for file in manifest.files:
        _read_file(storage, uri, file)
    return manifest


def save(
    storage: Storage,
    uri: str,
    engine: Engine,
    *,
    step: int,
    spec_hash: str,
    index_fingerprint: str,
    masked_samples: int,
    attempt: int,
) -> Manifest:
    """Writes a checkpoint from all ranks and commits it. Raises StorageError on a rank that can't write."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    owner = _owners({name: engine.shapes[name] for name in engine.trained}, world_size)
    model: dict[str, Tensor] = {}
    optimizer: dict[str, Tensor] = {}
    for state in engine.whole_state():
        if owner[state.name] == rank:
            model[state.name] = _on_host(state.value)
            optimizer |= {f"{key}.{state.name}": _on_host(state.moments[key]) for key in MOMENTS}
    for name, tensor in engine.untrained_state():
        if rank == 0:
            model[name] = _on_host(tensor)

    files = [
        _write_file(storage, uri, f"{kind}-a{attempt:05d}-{rank:05d}.safetensors", tensors)
        for kind, tensors in (("model", model), ("optimizer", optimizer))
        if tensors
    ]
    gathered: list[list[File]] = [[] for _ in range(world_size)]
    dist.all_gather_object(gathered, files)
    manifest = Manifest(
        step=step,
        spec_hash=spec_hash,
        index_fingerprint=index_fingerprint,
        masked_samples=masked_samples,
        attempt=attempt,
        world_size=world_size,
        files=tuple(file for files in gathered for file in files),
        skipped_steps=engine.skipped_steps,
        loss_scale=engine.loss_scale,
    )
    if rank == 0:
        storage.write(join(uri, "manifest.json"), manifest.to_json())
    return manifest


def load(storage: Storage, uri: str, engine: Engine) -> Manifest:
    """Loads a checkpoint into `engine`, whatever wrote it. Raises CheckpointError."""
    manifest = read_manifest(storage, uri)
    model = _tensors(storage, uri, manifest, "model")
    optimizer = _tensors(storage, uri, manifest, "optimizer")
    _check_fits(engine.shapes, model, uri)
    for name in engine.trained:
        if any(f"{key}.{name}" not in optimizer for key in MOMENTS):
            raise CheckpointError(f"{uri} has no optimizer state of {name}")
    states = (State(name, model[name], {key: optimizer[f"{key}.{name}"] for key in MOMENTS}) for name in engine.trained)
    # In the model's order: at stage 3, setting one is a collective.
    untrained = {name: model[name] for name in engine.shapes if name not in engine.trained}
    engine.load_state(states, untrained, manifest.step, manifest.loss_scale, manifest.skipped_steps)
    return manifest


def load_model(storage: Storage, uri: str, module: nn.Module) -> Manifest:
    """Loads the parameters and buffers of a checkpoint alone, as evaluations need them."""
    manifest = read_manifest(storage, uri)
    tensors = _tensors(storage, uri, manifest, "model")
    own = dict(whole_names(module))
    _check_fits({name: tensor.shape for name, tensor in own.items()}, tensors, uri)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return manifest


def _check_fits(shapes: dict[str, torch.Size], tensors: dict[str, Tensor], uri: str) -> None:
    """Raises CheckpointError where the `tensors` of `uri` are not those of a model with `shapes`."""
    faults = {
        "missing": sorted(shapes.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - shapes.keys()),
        "of another shape": sorted(
            name for name in shapes.keys() & tensors.keys() if shapes[name] != tensors[name].shape
        ),
    }
    if any(faults.values()):
        found = ", ".join(f"{fault} {names[:3]}" for fault, names in faults.items() if names)
        raise CheckpointError(f"{uri} is of another model: {found}")


def _owners(shapes: dict[str, torch.Size], world_size: int) -> dict[str, int]:
    """Which rank writes which of the parameters: the largest first, each to the rank with least so far."""
    load = [0] * world_size
    owner = {}
    for numel, name in sorted(((shape.numel(), name) for name, shape in shapes.items()), reverse=True):
        owner[name] = load.index(min(load))
        load[owner[name]] += numel
    return owner


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _write_file(storage: Storage, uri: str, name: str, tensors: dict[str, Tensor]) -> File:
    content = safetensors.torch.save(tensors)
    storage.write(join(uri, name), content)
    return File(name, len(content), hashlib.sha256(content).hexdigest())


def _read_file(storage: Storage, uri: str, file: File) -> bytes:
    try:
        content = storage.read(join(uri, file.name))
    except NotFoundError as error:
        raise CheckpointError(f"{file.name} is missing") from error
    if len(content) != file.size:
        raise CheckpointError(f"{file.name} has {len(content)} bytes, the manifest says {file.size}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise CheckpointError(f"{file.name} has another sha256 than the manifest says")
    return content


def _tensors(storage: Storage, uri: str, manifest: Manifest, kind: str) -> dict[str, Tensor]:
    return dict(_tensors_of(storage, uri, manifest, kind))


def _tensors_of(storage: Storage, uri: str, manifest: Manifest, kind: str) -> Iterator[tuple[str, Tensor]]:
    for file in manifest.files:
        if file.name.startswith(f"{kind}-"):
            yield from safetensors.torch.load(_read_file(storage, uri, file)).items()
