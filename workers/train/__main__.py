"""Training under torchrun, without Ray, on a run directory that holds spec, plan and index:

    torchrun --nproc-per-node 2 -m workers.train runs/digits-clip

Goes on from the newest checkpoint whose manifest is there. It is how the worker core is tested, and how it
runs on a machine without Ray; retries and evaluations are the orchestrator's.
"""

from __future__ import annotations

import os
import secrets
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from jobspecs.storage import S3
from workers.run import RunDirectory, RunPlan, committed_steps
from workers.run_inputs import load_spec
from workers.storage import Storage, absolute
from workers.train.fence import attempts, claim_attempt, newest_driver
from workers.train.loop import train
from workers.train.task import TrainTask


def main(run: str) -> None:
    """Trains the run at `run` on this rank of a torchrun group."""
    storage = Storage(S3())
    directory = RunDirectory(absolute(run))
    spec = load_spec(storage, directory)
    device = None
    if spec.cluster.gpus_per_worker:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=spec.cluster.collective_timeout_seconds)
    dist.init_process_group(spec.cluster.backend, timeout=timeout, device_id=device)
    commits = committed_steps(storage, directory)
    attempt = [0]
    if dist.get_rank() == 0:
        attempt = [max([0, *attempts(storage, directory)]) + 1]
        claim_attempt(storage, directory, attempt[0], secrets.token_hex(8))
    dist.broadcast_object_list(attempt)
    task = TrainTask(
        spec=spec,
        plan=RunPlan.from_json(storage.read(directory.plan)),
        run=directory,
        attempt=attempt[0],
        resume_from=directory.checkpoint(commits[-1]) if commits else None,
        driver=newest_driver(storage, directory),
    )
    train(task)
    dist.barrier()
    dist.destroy_process_group()
    # DeepSpeed keeps references to the group, so its threads outlive the call above, and now and then C++
    # aborts the interpreter's end over them. The work is committed: there is nothing left to tidy up.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
