"""DeepSpeed's engine for a model: gradients that are averaged once a step, updates, and the state as it lies.

Parameters and optimizer state are fp32 under any precision: bf16 and fp16 are DeepSpeed's autocast of the
arithmetic, so that `logit_scale` and the norms keep their digits.

    with engine.accumulation():
        for part in parts:
            engine.backward(loss_of(engine(*part)))
    norm = engine.step(learning_rate)

A parameter that no backward pass reached in a step has a gradient of zero, at every stage and on every rank alike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jobspecs.training import Training
from workers.train.average import WeightAverage
from workers.train.deepspeed_config import configuration, import_deepspeed, initialize
from workers.train.lamb import Lamb
from workers.train.loss_scale import LossScale
from workers.train.optimizer import MOMENTS, make_moments, make_optimizer
from workers.train.partition import Held, Partition, held_of_module, whole_names

Kind = Literal["model", "optimizer", "ema"]
"""Parts of the state: parameters and buffers; moments; where the spec has it, the average of what training changes."""


class Engine:
    """A model under DeepSpeed, with its optimizer. All ranks call its methods together."""

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        rows: int,
        device: torch.device,
        section: Mapping[str, Any] | None = None,
    ) -> None:
        """rows: rows of this rank in each batch, masked ones included. section: the spec's `deepspeed`.

        Raises DeepSpeedConfigurationError.
        """
        section = section or {}
        deepspeed = import_deepspeed(device)
        model = model.to(device)
        self.shapes = {name: tensor.shape for name, tensor in whole_names(model)}
        """Of all parameters and persistent buffers, by name: at stage 3 the module's own are empty."""
        self.trained = tuple(name for name, p in model.named_parameters() if p.requires_grad)
        """Names of the trained parameters, in the model's order."""
        elements = sum(self.shapes[name].numel() for name in self.trained)
        optimizer = make_optimizer(model, training.optimizer, device)
        self._engine = initialize(
            deepspeed,
            section,
            model=model,
            optimizer=optimizer,
            config=configuration(training, section, rows, elements),
        )
        self._stage = training.zero_stage
        self._max_grad_norm = training.max_grad_norm
        self._optimizer = optimizer
        self._partition = Partition(self._engine, self._stage, optimizer)
        make_moments(optimizer, self._partition.tensors)
        if isinstance(optimizer, Lamb):
            optimizer.layouts = self._partition.layouts
        self._average: WeightAverage | None = None
        self._averaged_buffers: dict[str, Tensor] = {}
        self.averaged: tuple[str, ...] = ()
        """Names of the parameters and buffers of which there is an average."""
        if training.ema is not None:
            buffers = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
            self._averaged_buffers = {name: buffers[name] for name in self.shapes if name in buffers}
            tensors = [*self._partition.tensors, *self._averaged_buffers.values()]
            self._average = WeightAverage(training.ema.decay, tensors)
            self.averaged = (*self.trained, *self._averaged_buffers)
        # DeepSpeed's scaling is wrong under ZeRO: see loss_scale.py. That another engine of this process has used
        # fp16 is enough for it to be there.
        self._engine.torch_autocast_z0_gradscaler = None
        if self._stage > 0:
            self._engine.optimizer.torch_autocast_gradscaler = None
        self.loss_scale = LossScale() if training.precision == "fp16" else None
        """The state of the loss scaling; None but for fp16."""
        self.overflowed = False
        """Whether the last step was skipped, because its gradient was not finite."""
        self.skipped_steps = 0
        """Steps that were skipped, of the whole run."""

    @property
    def module(self) -> nn.Module:
        """The model itself. At stage 3 its parameters are empty outside of a forward or backward pass."""
        module: nn.Module = self._engine.module
        return module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass."""
        return self._engine(*args, **kwargs)

    # --- a step -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def accumulation(self) -> Iterator[None]:
        """Inside, `backward` only adds up gradients; they are averaged over the ranks once, at its end.

        What is raised inside goes through, and the gradients are forgotten.
        """
        try:
            with self._engine.no_sync() if self._stage == 0 else self._engine.coalesce_grad_reduction():
                try:
                    yield
                    self._fill_gradients()
                except BaseException:
                    # DeepSpeed reduces in a `finally`: what there is then, and the other ranks might not join in.
                    self._engine.zero_grad()
                    raise
            if self._stage == 0 and dist.get_world_size() > 1:  # alone, it would copy all gradients there and back
                self._engine.allreduce_gradients()
        except BaseException:
            self.discard()
            raise

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`, a scalar, to the step's; within `accumulation`."""
        if self.loss_scale is not None:
            if self._stage == 0:
                loss = loss * self.loss_scale.scale
            else:
                # Multiplies the loss, divides the gradient before it clips, and skips a step whose norm is not finite.
                self._engine.optimizer.override_loss_scale(self.loss_scale.scale)
        self._engine.backward(loss)

    def step(self, learning_rate: float) -> float:
        """Clips the gradient to `max_grad_norm` and updates the parameters, then their average.

        Returns the global L2 norm of the gradient before clipping. Where it is not finite, the step is skipped:
        see `overflowed`.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._step_whole() if self._stage == 0 else self._step_partitioned()
        self.overflowed = not math.isfinite(norm)
        self.skipped_steps += self.overflowed
        if self._average is not None and not self.overflowed:
            self._average.update()
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after(self.overflowed)
        return norm

    def discard(self) -> None:
        """Forgets the gradients since the last step, and whatever an interrupted pass left behind."""
        self._engine.zero_grad()
        if self._stage == 0:
            return
        zero = self._engine.optimizer
        zero.zero_grad()
        zero._backward_hook_state.reset_for_new_step()
        zero._backward_active_depth = 0
        if self._stage == 3:
            zero.averaged_gradients = {}
            zero._partition_all_parameters()
        else:
            zero.averaged_gradients = dict.fromkeys(zero.averaged_gradients)
            zero.all_grad_tensors = dict.fromkeys(zero.all_grad_tensors)

    def _fill_gradients(self) -> None:
        """Zeros where no backward pass came by.

        Ranks must reduce the same parameters. And at stage 3, DeepSpeed 0.19 would take the gradient that such a
        parameter had at the step before.
        """
        for parameter in self.module.parameters():
            if parameter.requires_grad and parameter.grad is None:
                data = parameter.data
                shape = getattr(parameter, "ds_shape", data.shape)
                # At stage 3 the parameter is empty now, but takes only a gradient of its own shape.
                parameter.data = data.new_empty(shape)
                parameter.grad = torch.zeros_like(parameter)
                parameter.data = data

    def _step_whole(self) -> float:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        if self.loss_scale is not None:
            torch._foreach_mul_(gradients, 1 / self.loss_scale.scale)
        norm = torch.nn.utils.get_total_norm(gradients)
        found = float(norm)
        if math.isfinite(found):
            trained = [p for p in self.module.parameters() if p.requires_grad]
            torch.nn.utils.clip_grads_with_norm_(trained, self._max_grad_norm, norm)
            self._engine.step()
        else:
            self._engine.zero_grad()
        return found

    def _step_partitioned(self) -> float:
        self._engine.step()
        return math.inf if self._engine.optimizer.overflow else float(self._engine.get_global_grad_norm())

    # --- the state ------------------------------------------------------------------------------------------

    def held(self) -> dict[Kind, list[Held]]:
        """What this rank holds of the state between two steps: of all parameters and buffers, of the moments of the
        trained ones, and of their average. Nothing is copied or sent."""
        model = [held_of_module(tensor, name, self.shapes[name]) for name, tensor in whole_names(self.module)]
        moments: list[Held] = []
        for key in MOMENTS:
            moments += self._of_trained(key, {t: self._optimizer.state[t][key] for t in self._partition.tensors})
        state: dict[Kind, list[Held]] = {"model": model, "optimizer": moments}
        if self._average is not None:
            values = self._average.values
            state["ema"] = [*self._of_trained("ema", values)]
            for name, buffer in self._averaged_buffers.items():
                state["ema"].append(held_of_module(values[buffer], f"ema.{name}", buffer.shape))
        return state

    def _of_trained(self, key: str, values: Mapping[Tensor, Tensor]) -> Iterator[Held]:
        """What `values`, by tensor of the optimizer, hold here of each trained parameter, as `<key>.<name>`."""
        parameters = dict(self.module.named_parameters())
        for name in self.trained:
            held = self._partition.held(parameters[name], f"{key}.{name}", self.shapes[name], values)
            if held is not None:
                yield held

    @contextlib.contextmanager
    def restoring(
        self, step: int, loss_scale: LossScale | None = None, skipped_steps: int = 0
    ) -> Iterator[dict[Kind, list[Held]]]:
        """Inside, all of `held` is to be set, to the state after `step` optimizer steps, `skipped_steps` of which were
        skipped. Collective."""
        if self._stage == 3:
            self._engine.optimizer.checkpoint_event_prologue()
        with torch.no_grad():
            yield self.held()
            if self._stage > 0:
                # The optimizer's copies: both are fp32.
                self._engine.optimizer.refresh_fp32_params()
            if self._stage == 3:
                # Gathers the small parameters that stay whole on every rank.
                self._engine.optimizer.checkpoint_event_epilogue()
            for slots in self._optimizer.state.values():
                slots["step"].fill_(step - skipped_steps)
        if self._average is not None:
            self._average.updates = step - skipped_steps
        self.skipped_steps = skipped_steps
        if self.loss_scale is not None:
            self.loss_scale = loss_scale or LossScale()
