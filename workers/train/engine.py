"""DeepSpeed's engine for a model, and access to the whole of its state by parameter name.

Everything that knows DeepSpeed stands here. Parameters and optimizer state are fp32 under any precision:
bf16 is DeepSpeed's autocast of the arithmetic, so that `logit_scale` and the norms keep their digits.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jobspecs.training import Training

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, each of the parameter's shape."""


def import_deepspeed() -> Any:
    """The module. It takes seconds to import, and warns of its own use of torch."""
    # DeepSpeed announces itself at length on every rank; what it warns of still comes through.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    # Its backend would compile a collective for inference on CPUs, under a lock file that a killed compiler leaves
    # behind and every later job waits for without end. Training never calls it: no compiled op counts as available.
    deepspeed.ops.__compatible_ops__ = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    return deepspeed


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings are decayed; vectors and scalars (norms, biases, the logit scale) are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class State:
    """The state of one parameter, whole: name in the model, fp32 value, moments by name of MOMENTS."""

    name: str
    value: Tensor
    moments: dict[str, Tensor]


class Engine:
    """A model under DeepSpeed, with its optimizer. All ranks call its methods together."""

    def __init__(self, model: nn.Module, training: Training, rows: int, device: torch.device) -> None:
        """rows: rows of this rank in each batch, masked ones included."""
        deepspeed = import_deepspeed()
        optimizer = torch.optim.AdamW(
            parameter_groups(model, training.optimizer.weight_decay),
            lr=training.optimizer.learning_rate,
            betas=(training.optimizer.betas[0], training.optimizer.betas[1]),
            eps=training.optimizer.eps,
        )
        config = {
            "train_micro_batch_size_per_gpu": rows,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": training.max_grad_norm,
            "zero_optimization": {"stage": training.zero_stage},
            "zero_allow_untested_optimizer": True,
            "torch_autocast": {"enabled": training.precision == "bf16", "dtype": "bfloat16"},
        }
        self._stage = training.zero_stage
        self._engine, *_ = deepspeed.initialize(
            model=model.to(device), optimizer=optimizer, config=config, dist_init_required=False
        )
        self._optimizer = optimizer
        self._names = {id(p): name for name, p in self.module.named_parameters() if p.requires_grad}
        self._make_moments()

    @property
    def module(self) -> nn.Module:
        """The model itself."""
        module: nn.Module = self._engine.module
        return module

    def __call__(self, *inputs: Any) -> Any:
        """The model's forward pass."""
        return self._engine(*inputs)

    def update(self, loss: Tensor, learning_rate: float) -> float:
        """Backward pass, gradient averaging over the ranks, clipping, optimizer step.

        Returns the global L2 norm of the gradient before clipping.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.backward(loss)
        if self._stage == 0:
            # Without ZeRO, DeepSpeed clips but keeps no norm.
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self._engine.step()
        else:
            self._engine.step()
            norm = self._engine.get_global_grad_norm()
        return float(norm)

    def whole_state(self) -> Iterator[State]:
        """The state of each trained parameter, in the model's order. Collective under ZeRO; each comes
        whole on every rank and may be dropped before the next."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        for name, parameter in self._trained():
            if self._stage == 0:
                state = self._optimizer.state[parameter]
                yield State(name, parameter.detach(), {key: state[key] for key in MOMENTS})
            else:
                moments = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
                yield State(name, safe_get_full_fp32_param(parameter), moments)

    def load_state(self, states: Iterator[State], step: int) -> None:
        """Takes over `states` (every trained parameter once) as they are after `step` optimizer steps."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameters = dict(self._trained())
        with torch.no_grad():
            for state in states:
                parameter = parameters.pop(state.name)
                parameter.copy_(state.value)
                if self._stage == 0:
                    for key, value in state.moments.items():
                        self._optimizer.state[parameter][key].copy_(value)
                else:
                    # These write this rank's part of it; the working copy above is not theirs.
                    safe_set_full_fp32_param(parameter, state.value.to(parameter.device))
                    for key, value in state.moments.items():
                        safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
            for slots in self._optimizer.state.values():
                slots["step"].fill_(step)
        assert not parameters, f"no state for {sorted(parameters)}"

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.module.named_parameters() if p.requires_grad)

    def _make_moments(self) -> None:
        """Makes AdamW's state now and not at the first step.

        DeepSpeed 0.19 links a parameter to its moments after the first parameter group's step, when those
        of the later groups are not there yet: `safe_get_full_optimizer_state` then fails for them.
        """
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                self._optimizer.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    **{key: torch.zeros_like(parameter) for key in MOMENTS},
                }
        if self._stage > 0:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
