"""`deepspeed:` what of DeepSpeed's own configuration a spec may set, and what other fields decide.

DeepSpeed itself takes no notice of top-level keys that it doesn't know, so the known ones are listed here. What
it thinks of the values shows when a rank starts it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from jobspecs.base import misplaced
from jobspecs.training import Training

PASSED_ON = (
    "comms_logger",
    "communication_data_type",
    "disable_python_gc",
    "dump_state",
    "flops_profiler",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "steps_per_print",
    "torch_autocast",
    "wall_clock_breakdown",
    "zero_optimization",
)
"""Top-level keys that reach DeepSpeed."""

_MONITORS = {"tensorboard": "tracking.tensorboard", "wandb": "tracking.wandb"}
"""DeepSpeed's own monitors, which write beside the run directory, and the fields to use in their place."""

_DECIDED_BY = {
    "optimizer": "training.optimizer",
    "scheduler": "training.schedule",
    "fp16": "training.precision",
    "bf16": "training.precision",
    "bfloat16": "training.precision",
    "amp": "training.precision",
    "data_types": "training.precision",
    "train_micro_batch_size_per_gpu": "training.micro_batch",
}
"""Keys that have no place here, and the field that decides instead."""

_NOT_OURS = (
    "offload_optimizer",
    "offload_param",
    "cpu_offload",
    "cpu_offload_param",
    "cpu_offload_use_pin_memory",
    "zenflow",
    "zero_quantized_weights",
    "zero_quantized_nontrainable_weights",
    "zero_quantized_gradients",
    "zero_hpz_partition_size",
    "mics_shard_size",
    "elastic_checkpoint",
)
"""Of `zero_optimization`: they place, split or round the state otherwise than checkpoints and updates expect."""

_AUTOCAST = ("enabled", "dtype")
"""Keys of `torch_autocast` that may be repeated."""

_PATHS = ("output_path", "output_file", "nvme_path")
"""Keys of what DeepSpeed would write beside the run directory, over whatever stands there."""


def check_deepspeed(section: Mapping[str, JsonValue], training: Training) -> None:
    """Raises PydanticCustomError, with its place in a JobSpec, where `section` contradicts another field."""
    for path, (field, value) in _owned(training).items():
        given = _at(section, path.split("."))
        if given is not None and given != value:
            raise misplaced(
                f"deepspeed.{path}",
                f"deepspeed.{path} is {json.dumps(given)}, {field} is {json.dumps(value)}",
                f"{field} decides: take the key out of deepspeed.",
            )
    for key, value in section.items():
        if key in _DECIDED_BY:
            field = _DECIDED_BY[key]
            decided = _of(training, field)
            raise misplaced(
                f"deepspeed.{key}",
                f"deepspeed.{key} is {_short(value)}, {field} is {_short(decided)}",
                f"{field} decides: take the key out of deepspeed.",
            )
        if key not in PASSED_ON and key not in _owned(training):
            near = difflib.get_close_matches(key, PASSED_ON, n=1, cutoff=0.6)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            remedy = f"{hint}Allowed here: {', '.join(PASSED_ON)}."
            raise misplaced(
                f"deepspeed.{key}",
                f"{key!r} is not passed on to DeepSpeed",
                f"Set {_MONITORS[key]}, which does the same." if key in _MONITORS else remedy,
            )
        if key in ("zero_optimization", "torch_autocast") and not isinstance(value, dict):
            raise misplaced(f"deepspeed.{key}", f"should be a mapping, `key: value`, given: {_short(value)}")
    _check_autocast(section)
    for path in _paths(section):
        raise misplaced(
            f"deepspeed.{path}",
            "DeepSpeed writes no files of its own: a job writes into its run directory only",
            "Take the key out; what DeepSpeed prints is in the workers' logs.",
        )
    for key in _NOT_OURS:
        if _at(section, ["zero_optimization", key]) not in (None, False):
            raise misplaced(
                f"deepspeed.zero_optimization.{key}",
                f"zero_optimization.{key} is not supported",
                "It places or rounds parameters and optimizer state otherwise than checkpoints need it.",
            )


def _check_autocast(section: Mapping[str, JsonValue]) -> None:
    """Raises the fault of a key of `torch_autocast` that no field decides: by `lower_precision_safe_modules`, DeepSpeed
    imports whatever module a spec names."""
    given = section.get("torch_autocast")
    for key in given if isinstance(given, dict) else ():
        if key not in _AUTOCAST:
            raise misplaced(
                f"deepspeed.torch_autocast.{key}",
                f"torch_autocast.{key} is not passed on to DeepSpeed",
                f"Take the key out. Allowed here: {', '.join(_AUTOCAST)}, both as training.precision decides.",
            )


def _paths(section: Mapping[str, JsonValue]) -> Iterator[str]:
    """Dotted paths of the files and folders that are named in `section`."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from (f"{key}.{path}" for path in _paths(value))
        elif key in _PATHS and value is not None:
            yield key


def _owned(training: Training) -> dict[str, tuple[str, JsonValue]]:
    """Keys that may be repeated here with the value that the field of the spec gives them, and no other."""
    autocast: dict[str, JsonValue] = {"bf16": "bfloat16", "fp16": "float16"}
    return {
        "train_batch_size": ("training.global_batch", training.global_batch),
        "gradient_accumulation_steps": ("the number of DeepSpeed's own micro-batches", 1),
        "managed_gradient_accumulation": ("the accumulation that Tandem needs", True),
        "gradient_clipping": ("training.max_grad_norm", training.max_grad_norm),
        "zero_allow_untested_optimizer": ("the permission that training.optimizer needs", True),
        "zero_optimization.stage": ("training.zero_stage", training.zero_stage),
        "zero_optimization.compute_grad_norm": ("the norm that training.max_grad_norm needs", True),
        "torch_autocast.enabled": ("training.precision != fp32", training.precision != "fp32"),
        "torch_autocast.dtype": ("training.precision's type", autocast.get(training.precision, "float32")),
    }


def _at(section: Mapping[str, JsonValue], path: list[str]) -> JsonValue:
    """The value at `path`, None where there is none."""
    value: JsonValue = dict(section)
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _of(training: Training, field: str) -> JsonValue:
    value: JsonValue = training.model_dump(mode="json")[field.removeprefix("training.")]
    return value


def _short(value: JsonValue) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
