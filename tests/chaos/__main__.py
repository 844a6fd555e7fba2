"""Disturbs jobs and checks that they end as the same experiment: `make chaos [SEED=7] [LENGTH=6]`.

    python -m tests.chaos                       each fault alone, then a sequence of each of three seeds
    python -m tests.chaos --seed 7 --length 6   the sequence of one seed
    python -m tests.chaos --faults kill_node    these, in this order

The run directory lies in an S3 server behind a proxy, so that the storage can fail too. Prints what was done and, at
the end, the event log of each run.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspecs.storage import S3
from tests.chaos.faults import S3_FAULTS
from tests.chaos.play import check, digits_in, play, reference, sequence
from tests.chaos.stage import Stage
from tests.faulty_proxy import FaultyProxy
from workers.storage import Storage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--length", type=int, default=6)
    parser.add_argument("--faults", nargs="+", choices=list(S3_FAULTS))
    args = parser.parse_args()
    if args.faults:
        plays = [(args.seed or 0, [S3_FAULTS[name] for name in args.faults])]
    elif args.seed is not None:
        plays = [(args.seed, sequence(S3_FAULTS, args.seed, args.length))]
    else:
        plays = [(0, [fault]) for fault in S3_FAULTS.values()]
        plays += [(seed, sequence(S3_FAULTS, seed, args.length)) for seed in range(3)]
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server() as server,
        FaultyProxy(server) as proxy,
        Stage(digits_in(Path(folder)), proxy) as stage,
    ):
        Storage(S3(endpoint=server))._s3.client.create_bucket(Bucket="chaos")
        print("undisturbed", flush=True)
        expected = reference(stage, "s3://chaos/undisturbed")
        for number, (seed, faults) in enumerate(plays):
            print(f"\nseed {seed}: {', '.join(fault.__name__ for fault in faults)}", flush=True)
            began = time.monotonic()

            def say(line: str, began: float = began) -> None:
                print(f"  {time.monotonic() - began:6.1f} s  {line}", flush=True)

            told = play(stage, f"s3://chaos/{number}", faults, seed, say)
            check(stage, told, expected)
            say(f"succeeded, as the same experiment\n\n{told}")


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The URL of an empty S3 server, with credentials in the environment."""
    from moto.server import ThreadedMotoServer

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
    main()
