"""Dynamic loss scaling for fp16, the same under every ZeRO stage.

fp16 holds no gradient below 6e-8: the loss is multiplied by a large factor, the gradient divided by it. Where the
gradient overflows, the step is skipped and the factor halved; after a while without overflow it is doubled
(Micikevicius et al. 2018, Mixed precision training, section 3.2; the constants are those of torch's GradScaler).

DeepSpeed 0.19's own scaling under torch_autocast is switched off: at stages 1 to 3 it clips the gradient before it
divides it, asks each rank's partition alone whether it overflowed, and never lowers its scale for a step that was
skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GROWTH_STEPS = 2000
"""Steps without overflow until the scale is doubled."""
MIN_SCALE = 1.0


@dataclass(frozen=True)
class LossScale:
    """The state, for a checkpoint to hold."""

    scale: float = 65536.0
    """What the loss is multiplied by."""
    good_steps: int = 0
    """Steps since the scale last changed, all without overflow."""

    @property
    def at_minimum(self) -> bool:
        """Whether an overflow is no matter of the scale any more."""
        return self.scale <= MIN_SCALE

    def after(self, overflowed: bool) -> LossScale:
        """The state after a step whose gradient overflowed or did not."""
        if overflowed:
            return LossScale(max(self.scale / 2, MIN_SCALE))
        if self.good_steps + 1 == GROWTH_STEPS:
            return LossScale(self.scale * 2)
        return replace(self, good_steps=self.good_steps + 1)
