"""DeepSpeed itself, and its configuration out of the spec."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError

from jobspecs.errors import UsageError
from jobspecs.training import Training

MAX_BUCKET = 500_000_000
"""Elements that are reduced at once at most, which is DeepSpeed's own default."""


class DeepSpeedConfigurationError(UsageError):
    """DeepSpeed does not accept what `deepspeed:` says."""


def import_deepspeed(device: torch.device) -> Any:
    """The module, for training on `device`. It takes seconds to import, and warns of its own use of torch."""
    # Left to itself it takes a GPU that is there, also for a job that asks for none.
    os.environ["DS_ACCELERATOR"] = device.type
    # DeepSpeed announces itself at length on every rank; what it warns of still comes through.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
    # It calls these by the names that newer versions of torch deprecate: nothing that a user could mend.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning, r"torch\.distributed")
    # Its backend would compile a collective for inference on CPUs, under a lock file that a killed compiler leaves
    # behind and every later job waits for without end. Training never calls it: no compiled op counts as available.
    deepspeed.ops.__compatible_ops__ = {}
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if deepspeed.get_accelerator().device_name() != device.type:  # this process has imported it for another one
        deepspeed.accelerator.real_accelerator.ds_accelerator = None
        deepspeed.get_accelerator()
    return deepspeed


def configuration(training: Training, section: Mapping[str, Any], rows: int, elements: int) -> dict[str, Any]:
    """DeepSpeed's configuration: `section` (the spec's `deepspeed:`, checked) under what `training` decides.

    rows: of this rank in each batch. elements: of all trained parameters.
    """
    ours: dict[str, Any] = {
        # Samples and throughput are counted by the loop: DeepSpeed's batch sizes need only fit each other.
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": 1,
        # Without ZeRO, DeepSpeed clips but keeps no norm: there the engine does both.
        "gradient_clipping": training.max_grad_norm if training.zero_stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": training.zero_stage},
        "torch_autocast": {
            "enabled": training.precision != "fp32",
            "dtype": "float16" if training.precision == "fp16" else "bfloat16",
        },
    }
    defaults: dict[str, Any] = {
        # One bucket, so one reduction a step, and none larger than the gradient: at stages 1 to 3 a bucket is held.
        "zero_optimization": {"reduce_bucket_size": max(1, min(elements, MAX_BUCKET))},
        # Modules whose gradients travel in the low precision, which would round the sum over the ranks: none.
        "torch_autocast": {"lower_precision_safe_modules": []},
    }
    theirs = {key: value for key, value in section.items() if key != "train_batch_size"}
    return _merged(_merged(defaults, theirs), ours)


def initialize(deepspeed: Any, section: Mapping[str, Any], **arguments: Any) -> Any:
    """DeepSpeed's engine. Raises DeepSpeedConfigurationError where it refuses a value of `section`."""
    try:
        engine, *_ = deepspeed.initialize(dist_init_required=False, **arguments)
    except (ValueError, AssertionError, TypeError, KeyError, deepspeed.runtime.config.DeepSpeedConfigError) as error:
        if not section:
            raise
        if isinstance(error, ValidationError):
            key = "zero_optimization." if error.title == "DeepSpeedZeroConfig" else ""
            told = "; ".join(
                f"deepspeed.{key}{'.'.join(map(str, detail['loc']))}: {detail['msg']}, given: {detail['input']!r}"
                for detail in error.errors()
            )
        else:
            told = f"{', '.join(f'deepspeed.{key}' for key in sorted(section))}: {error}"
        raise DeepSpeedConfigurationError(
            f"DeepSpeed does not accept its configuration: {told}. Mend the section `deepspeed` of the spec."
        ) from error
    return engine


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `above` where they differ; mappings are merged."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
