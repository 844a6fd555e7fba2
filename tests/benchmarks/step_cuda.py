"""The whole training step of CLIP ViT-B/32 on one GPU against open_clip's, in samples/s. Called by `step.py` where
torch has CUDA.

    tandem      as in step.py, under bf16: DeepSpeed's autocast, fp32 parameters
    open_clip   its own towers of the same dimensions and its `ClipLoss`, as its training script steps them with
                `--precision amp_bfloat16 --grad-clip-norm 1`: torch's autocast, fp32 parameters, torch's AdamW

Both take the same batch from host memory as their loaders leave it there: Tandem's pixels are bytes that become floats
on the GPU, open_clip's are floats already, and pinned. No loader runs. The contestants take turns; each step ends with
reading its loss.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.benchmarks.gpu import peak, reset_peak
from tests.benchmarks.peers import open_clip_losses, open_clip_model
from tests.benchmarks.step import LEARNING_RATE, noise, tandem_step
from workers.data.rows import Rows
from workers.data.tokenize import Tokenizer
from workers.models.build import build

GPU_NEEDED = "On a GPU the whole step of ViT-B/32 is measured against open_clip's too; torch finds none here."
_BATCHES = (1024, 2048)
_ROUNDS = 10
_LARGEST_SCALE = 100.0

_SPEC = """
apiVersion: tandem/v1
name: bench-step-cuda
objective: {kind: image_text}
data:
  sources: [{name: none, urls: ["none.tar"]}]
  image: {column: jpg, size: %d, mean: [0.48145466, 0.4578275, 0.40821073], std: [0.26862954, 0.26130258, 0.27577711]}
  text: {column: txt, context_length: 77}
model: %s
training:
  global_batch: %d
  steps: 1000
  precision: bf16
  optimizer: {kind: adamw, learning_rate: 1e-4, weight_decay: 0.2}
  schedule: {kind: cosine, warmup_steps: 1}
"""
TOKENIZER = Tokenizer(vocabulary=49_408, begin=49_406, end=49_407, padding=0)
"""CLIP's ids. Its words are not needed: the captions' bytes are ids too."""


@dataclass(frozen=True)
class Towers:
    """The same towers to each contestant."""

    pixels: int
    """Side of an image."""
    tandem: str
    """The spec's section."""
    open_clip: dict[str, dict[str, int]]
    """Its configuration."""
    embedding_dim: int
    quick_gelu: bool = False
    """Activation of the published CLIP, which Tandem's preset has."""


VIT_B_32 = Towers(
    pixels=224,
    tandem="{image: {kind: preset, name: ViT-B/32}, text: {kind: preset, name: ViT-B/32}, embedding_dim: 512}",
    open_clip={
        "vision_cfg": {"layers": 12, "width": 768, "patch_size": 32, "image_size": 224},
        "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 512, "heads": 8, "layers": 12},
    },
    embedding_dim=512,
    quick_gelu=True,
)


@dataclass
class Taken:
    """What the steps of one contestant took."""

    seconds: list[float]
    """Of each round."""
    peak_bytes: int
    """Of the GPU's memory in a step, above what lies there between steps; 0 on a CPU."""


def measure_cuda(
    batches: tuple[int, ...] = _BATCHES, rounds: int = _ROUNDS, device: str = "cuda", towers: Towers = VIT_B_32
) -> list[str]:
    """Lines to print. In a process that is a rank."""
    lines = [f"on {torch.cuda.get_device_name() if device == 'cuda' else device}, bf16, one rank:"]
    for batch in batches:
        taken = timed(contestants(towers, batch, torch.device(device)), rounds, device)
        seconds = {name: statistics.median(of.seconds) for name, of in taken.items()}
        lines += [
            f"B = {batch:,}: {name} {batch / seconds[name]:,.0f} samples/s, {seconds[name] * 1e3:,.1f} ms a step, "
            f"peak memory {of.peak_bytes / 2**30:.1f} GiB above parameters and optimizer state"
            for name, of in taken.items()
        ]
        lines.append(
            f"B = {batch:,}: Tandem's samples/s over open_clip's: {seconds['open_clip'] / seconds['tandem']:.2f}"
        )
    return lines


def timed(steps: dict[str, Callable[[], float]], rounds: int, device: str) -> dict[str, Taken]:
    """Takes `rounds` steps of each in turn, after two that warm up."""
    taken = {name: Taken([], 0) for name in steps}
    for step in steps.values():
        for _ in range(2):
            step()
    for number in range(rounds):
        for name in list(steps) if number % 2 else list(steps)[::-1]:
            before = reset_peak(device)
            began = time.perf_counter()
            steps[name]()  # ends with reading the loss: nothing is left to be waited for
            taken[name].seconds.append(time.perf_counter() - began)
            taken[name].peak_bytes = max(taken[name].peak_bytes, peak(device) - before)
    return taken


def contestants(towers: Towers, batch: int, device: torch.device) -> dict[str, Callable[[], float]]:
    """A step of each, which returns the loss, on the same batch. The weights are each one's own first ones."""
    spec = spec_of(towers, batch)
    rows = noise(spec, batch, TOKENIZER)
    model = build(spec.model, spec.data, spec.objective, spec.seed, {"text": TOKENIZER})
    return {
        "tandem": tandem_step(spec, model, rows, None, device),
        "open_clip": open_clip_step(spec, open_clip_towers(towers), rows, device),
    }


def spec_of(towers: Towers, batch: int) -> JobSpec:
    """Tandem's."""
    return loads(_SPEC % (towers.pixels, towers.tandem, batch), "bench-step-cuda.yaml")


def open_clip_towers(towers: Towers) -> nn.Module:
    """open_clip's, with their first weights."""
    module = open_clip_model()
    vision = module.CLIPVisionCfg(**towers.open_clip["vision_cfg"])
    text = module.CLIPTextCfg(**towers.open_clip["text_cfg"])
    model: nn.Module = module.CLIP(towers.embedding_dim, vision, text, quick_gelu=towers.quick_gelu, output_dict=True)
    return model


def open_clip_step(spec: JobSpec, model: nn.Module, rows: Rows, device: torch.device) -> Callable[[], float]:
    """As its training script does it without gradient accumulation."""
    model = model.to(device)
    pixels, tokens = _as_open_clip_loads(spec, rows)
    if device.type == "cuda":
        pixels, tokens = pixels.pin_memory(), tokens.pin_memory()
    no_decay = ("bn", "ln", "bias", "logit_scale")
    decayed = {name: p.ndim >= 2 and not any(word in name for word in no_decay) for name, p in model.named_parameters()}
    settings = spec.training.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in model.named_parameters() if not decayed[name]], "weight_decay": 0.0},
            {
                "params": [p for name, p in model.named_parameters() if decayed[name]],
                "weight_decay": settings.weight_decay,
            },
        ],
        lr=LEARNING_RATE,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
    )
    loss_of = open_clip_losses().ClipLoss(local_loss=True, gather_with_grad=True)

    def step() -> float:
        images = pixels.to(device, non_blocking=True)
        texts = tokens.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.amp.autocast(device.type, torch.bfloat16):
            features = model(images, texts)
            loss: Tensor = sum(loss_of(**features, output_dict=True).values())  # type: ignore[assignment]
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.training.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            scale = model.logit_scale
            assert isinstance(scale, Tensor)
            scale.clamp_(0, math.log(_LARGEST_SCALE))
        return loss.item()

    return step


def _as_open_clip_loads(spec: JobSpec, rows: Rows) -> tuple[Tensor, Tensor]:
    """Pixels fp32 (B, 3, P, P), normalised, and tokens int64 (B, T)."""
    image = spec.data.image
    assert image is not None
    pixels = torch.from_numpy(rows.columns["image"][:, 0]).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(of_channels).view(3, 1, 1) for of_channels in (image.mean, image.std))
    return ((pixels - mean) / deviation).contiguous(), torch.from_numpy(rows.columns["text"]).long()
