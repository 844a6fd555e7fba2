"""Disturbs jobs and checks that they end as the same experiment: `make chaos [SEED=7] [LENGTH=6]`.

    python -m tests.chaos                       each fault alone, then a sequence of each of three seeds
    python -m tests.chaos --seed 7 --length 6   the sequence of one seed
    python -m tests.chaos --faults kill_node    these, in this order
    python -m tests.chaos --alone grow kill_job   each of these in a job of its own

The run directory lies in an S3 server behind a proxy, so that the storage can fail too. Prints what was done and the
event log of each run and, at the end, a line a play. Ends with 1 if one failed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobspecs.storage import S3
from tests.chaos.play import ALL, Told, check, digits_in, play, sequence
from tests.chaos.stage import Stage
from tests.faulty_proxy import FaultyProxy
from tests.orchestrator.reference import reference
from workers.storage import Storage


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--length", type=int, default=6)
    parser.add_argument("--faults", nargs="+", choices=list(ALL))
    parser.add_argument("--alone", nargs="+", choices=list(ALL))
    parser.add_argument("--others", type=int, default=2, help="nodes beside the head")
    args = parser.parse_args()
    if args.alone:
        plays = [(args.seed or 0, [name]) for name in args.alone]
    elif args.faults:
        plays = [(args.seed or 0, args.faults)]
    elif args.seed is not None:
        plays = [(args.seed, sequence(args.seed, args.length))]
    else:
        plays = [(0, [name]) for name in ALL]
        plays += [(seed, sequence(seed, args.length)) for seed in range(3)]
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server() as server,
        FaultyProxy(server) as proxy,
        Stage(digits_in(Path(folder)), proxy, others=args.others) as stage,
    ):
        Storage(S3(endpoint=server))._s3.client.create_bucket(Bucket="chaos")
        expected: dict[int, list[dict[str, Any]]] = {}
        outcomes = []
        for number, (seed, names) in enumerate(plays):
            print(f"\nseed {seed}: {', '.join(names)}", flush=True)
            began = time.monotonic()

            def say(line: str, began: float = began) -> None:
                print(f"  {time.monotonic() - began:6.1f} s  {line}", flush=True)

            outcome = "succeeded, as the same experiment"
            try:
                told = play(stage, f"s3://chaos/{number}", names, seed, say)
                if stage.steps not in expected:
                    metrics = reference(stage.ledger, Path(folder) / str(number)).metrics()
                    expected[stage.steps] = list(metrics)
                check(stage, told, expected[stage.steps])
                say(f"{outcome}\n\n{told}")
            except Exception as error:
                outcome = "FAILED"
                say(f"{outcome}\n\n{type(error).__name__}: {error}\n\n{Told([], stage.ledger.events())}")
            outcomes.append(f"{time.monotonic() - began:6.1f} s  seed {seed}: {', '.join(names)}: {outcome}")
        print("\n" + "\n".join(outcomes), flush=True)
        return int(any(outcome.endswith("FAILED") for outcome in outcomes))


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The URL of an empty S3 server, with credentials in the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
