"""Part of the set-up: builds what DeepSpeed would compile at a job's first start (about 50 s on CPUs)."""

from __future__ import annotations

from workers.train.engine import import_deepspeed


def main() -> None:
    """Builds DeepSpeed's shared-memory collective for CPUs, once for this machine."""
    import_deepspeed()
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is not None:
        builder.load()


if __name__ == "__main__":
    main()
