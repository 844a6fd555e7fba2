"""Ray: a local one for `tandem run`, the cluster's own where this process runs on one."""

from __future__ import annotations

import logging
import os

from jobspecs.cluster import Cluster

# Ray reads these when it is imported. Usage reports are sent only where the user asks for them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers stay in the driver's folder: relative paths mean the same everywhere.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


def start_ray(cluster: Cluster) -> None:
    """Connects to the cluster that `RAY_ADDRESS` names, else starts Ray on this machine. Once a process."""
    import ray

    if ray.is_initialized():
        return
    # Ray warns that the cluster which it starts asks for a token. It does, and finds it by itself.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    # On one machine more workers than cores are slower but the same experiment; one CPU is for the
    # evaluation task.
    cpus = max(os.cpu_count() or 1, cluster.workers * cluster.cpus_per_worker + 1)
    ray.init(num_cpus=cpus, log_to_driver=False, logging_level=logging.WARNING)
