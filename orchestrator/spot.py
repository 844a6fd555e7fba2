"""Looks for the notice that AWS takes this spot instance back, two minutes ahead: `python -m orchestrator.spot`.

Runs beside Ray on each worker node. When the notice comes, the node leaves (`leave.py`): Ray is told, and the job saves
a checkpoint and goes on without it.
"""

from __future__ import annotations

import http.client
import sys
import time
import urllib.error
import urllib.request

from orchestrator.leave import leave

METADATA = "http://169.254.169.254"
"""The instance's own metadata service. It answers 404 as long as there is no notice."""
_TOKEN_SECONDS = 300
_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_LEAVE_SECONDS = 100.0
"""Of the two minutes: the notice is up to 5 s old when it is seen."""


def noticed(metadata: str = METADATA) -> bool:
    """Whether the instance is about to be taken back. Raises OSError, HTTPException: nobody says so or not."""
    asks_for_token = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
    token = _ask(f"{metadata}/latest/api/token", asks_for_token, "PUT")
    try:
        _ask(f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.NOT_FOUND:
            return False
        raise
    return True


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # Never through a proxy: the address is the machine's own.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_ANSWER_SECONDS) as answer:
        content: bytes = answer.read()
    return content.decode()


def main() -> None:
    """Waits for the notice, then leaves. A service that does not answer is asked again, and told of once."""
    is_told = False
    while True:
        try:
            if noticed():
                break
        except (OSError, http.client.HTTPException) as error:
            if not is_told:
                print(
                    f"{METADATA} does not answer ({type(error).__name__}: {error}): as long as it does not, nobody is "
                    "told that this spot instance is taken back, and the job loses what came after its last "
                    "checkpoint. Turn the metadata service of the instance on; for a container, with 2 hops.",
                    file=sys.stderr,
                    flush=True,
                )
            is_told = True
        time.sleep(_LOOK_SECONDS)
    leave(_LEAVE_SECONDS)


if __name__ == "__main__":
    main()
