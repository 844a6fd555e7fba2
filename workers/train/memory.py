"""What training holds on a rank's device. Plain arithmetic over what was counted of the towers.

Letters: P parameters, T trained ones, N ranks, m rows a rank, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from jobspecs.training import Training
from workers.losses.memory import loss_bytes
from workers.models.activations import Activations
from workers.objectives import Contrast
from workers.train.deepspeed_config import MAX_BUCKET

_FP32 = 4
_LIVE = 1_000_000_000
"""Parameters that stage 3 holds whole at a time at most: DeepSpeed's own default."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the device of one rank, at the most."""

    parameters: int
    """The towers' weights and buffers, fp32."""
    optimizer: int
    """Moments, under ZeRO the optimizer's own copy of the weights, and their average where there is one."""
    gradients: int
    """Of all trained parameters, fp32."""
    reduction: int
    """The bucket that is reduced, and then, under ZeRO, this rank's share of the result; stage 3 holds both at once."""
    activations: int
    """What forward passes keep at a time; with `micro_batch: auto` those of the whole share, which it begins with."""
    loss: int
    """The batch's features, gathered, with their gradients; and the tiles."""

    @property
    def peak(self) -> int:
        """At the most: gradients grow while activations go, and are reduced when those are gone."""
        return self.parameters + self.optimizer + self.gradients + max(self.activations + self.loss, self.reduction)


def device_memory(
    training: Training,
    contrast: Contrast,
    *,
    parameters: int,
    trained: int,
    activations: Mapping[str, Activations],
    ranks: int,
    rows: int,
    width: int,
    device: torch.device,
) -> DeviceMemory:
    """parameters: P; trained: T; activations: of an input, by side; ranks: N; rows: m; width: d."""
    stage, share = training.zero_stage, -(-trained // ranks)
    at_a_time = rows if not isinstance(training.micro_batch, int) else min(rows, training.micro_batch)
    kept = [activations[side].of(at_a_time * contrast.inputs[side]) for side in contrast.trained]
    bucket = min(trained, MAX_BUCKET) if stage or ranks > 1 else 0
    copies = 2 if stage == 0 else 3
    resident, travelling = (contrast.inputs[side] * rows for side in (contrast.resident, contrast.travelling))
    held = parameters if stage < 3 else min(parameters, _LIVE) + -(-parameters // ranks)
    return DeviceMemory(
        parameters=_FP32 * held,
        optimizer=_FP32 * (trained if stage == 0 else share) * (copies + (training.ema is not None)),
        gradients=_FP32 * trained,
        reduction=_FP32 * (bucket if stage == 0 else bucket + share if stage == 3 else max(bucket, share)),
        activations=int(sum(kept) if at_a_time == rows else max(kept)),
        loss=loss_bytes(
            resident, ranks * travelling, width, contrast.rule, contrast.prefixes, device, sigmoid=contrast.sigmoid
        ),
    )
