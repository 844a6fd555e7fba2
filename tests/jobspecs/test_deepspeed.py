"""DeepSpeed's own section: what other fields decide is refused with both values, the rest passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobspecs.load import loads

Wrong = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("section", "place", "words"),
    [
        ("{zero_optimization: {stage: 2}}", "zero_optimization.stage",
            "deepspeed.zero_optimization.stage is 2, training.zero_stage is 1\n"
            "    training.zero_stage decides: take the key out of deepspeed."),
        ("{flops_profiler: {enabled: true, output_file: /home/me/.bashrc}}", "flops_profiler.output_file",
            "DeepSpeed writes no files of its own: a job writes into its run directory only\n"
            "    Take the key out; what DeepSpeed prints is in the workers' logs."),
        ("{gradient_clipping: 2.5}", "gradient_clipping",
            "deepspeed.gradient_clipping is 2.5, training.max_grad_norm is 1.0\n"
            "    training.max_grad_norm decides: take the key out of deepspeed."),
        ("{train_batch_size: 64}", "train_batch_size",
            "deepspeed.train_batch_size is 64, training.global_batch is 128\n"
            "    training.global_batch decides: take the key out of deepspeed."),
        ("{gradient_accumulation_steps: 4}", "gradient_accumulation_steps",
            "deepspeed.gradient_accumulation_steps is 4, the number of DeepSpeed's own micro-batches is 1\n"
            "    the number of DeepSpeed's own micro-batches decides: take the key out of deepspeed."),
        ("{train_micro_batch_size_per_gpu: 4}", "train_micro_batch_size_per_gpu",
            "deepspeed.train_micro_batch_size_per_gpu is 4, training.micro_batch is null\n"
            "    training.micro_batch decides: take the key out of deepspeed."),
        ("{torch_autocast: {enabled: true}}", "torch_autocast.enabled",
            "deepspeed.torch_autocast.enabled is true, training.precision != fp32 is false\n"
            "    training.precision != fp32 decides: take the key out of deepspeed."),
        ("{torch_autocast: {lower_precision_safe_modules: [any.module.X]}}",
            "torch_autocast.lower_precision_safe_modules",
            "torch_autocast.lower_precision_safe_modules is not passed on to DeepSpeed\n"
            "    Take the key out. Allowed here: enabled, dtype, both as training.precision decides."),
        ("{fp16: {enabled: true}}", "fp16",
            'deepspeed.fp16 is {"enabled": true}, training.precision is "fp32"\n'
            "    training.precision decides: take the key out of deepspeed."),
        ("{scheduler: {type: WarmupLR}}", "scheduler",
            'deepspeed.scheduler is {"type": "WarmupLR"}, training.schedule is '
            '{"kind": "cosine", "warmup_steps": 40, "final_fraction": 0.0}\n'
            "    training.schedule decides: take the key out of deepspeed."),
        ("{zero_optimisation: {}}", "zero_optimisation",
            "'zero_optimisation' is not passed on to DeepSpeed\n    Did you mean 'zero_optimization'? Allowed here: "
            "comms_logger, communication_data_type, disable_python_gc, dump_state, flops_profiler, "
            "gradient_predivide_factor, memory_breakdown, prescale_gradients, steps_per_print, "
            "torch_autocast, wall_clock_breakdown, zero_optimization."),
        ("{wandb: {enabled: true, project: x}}", "wandb",
            "'wandb' is not passed on to DeepSpeed\n    Set tracking.wandb, which does the same."),
        ("{zero_optimization: 2}", "zero_optimization", "should be a mapping, `key: value`, given: 2"),
        ("{zero_optimization: {offload_optimizer: {device: cpu}}}", "zero_optimization.offload_optimizer",
            "zero_optimization.offload_optimizer is not supported\n"
            "    It places or rounds parameters and optimizer state otherwise than checkpoints need it."),
    ],
)  # fmt: skip
def test_a_conflict_names_both_values(wrong: Wrong, example: str, section: str, place: str, words: str) -> None:
    (fault,) = wrong(f"{example}\ndeepspeed: {section}\n")
    where, _, said = fault.partition("): ")
    assert where.partition(" (")[2] == f"deepspeed.{place}"
    assert said == words


def test_what_agrees_and_what_is_free_passes(example: str) -> None:
    section = """
      train_batch_size: 128
      gradient_clipping: 1
      communication_data_type: fp32
      zero_optimization: {stage: 1, reduce_bucket_size: 1000, overlap_comm: false, zero_quantized_weights: false}
      torch_autocast: {enabled: false, dtype: float32}
    """
    spec = loads(f"{example}\ndeepspeed:{section}")
    assert spec.deepspeed["communication_data_type"] == "fp32"
    assert loads(example).deepspeed == {}
