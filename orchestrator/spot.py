"""Looks for the notice that AWS takes this spot instance back, two minutes ahead: `python -m orchestrator.spot`.

Runs beside Ray on each worker node. When the notice comes, the node leaves (`leave.py`): Ray is told, and the job saves
a checkpoint and goes on without it.
"""

from __future__ import annotations

import time
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
    """Whether the instance is about to be taken back. A service that does not answer has said nothing."""
    try:
        asks_for_token = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
        token = _ask(f"{metadata}/latest/api/token", asks_for_token, "PUT")
        _ask(f"{metadata}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except OSError:  # urllib's HTTPError and URLError are such
        return False
    return True


def _ask(url: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)
    # Never through a proxy: the address is the machine's own.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_ANSWER_SECONDS) as answer:
        content: bytes = answer.read()
    return content.decode()


def main() -> None:
    """Waits for the notice, then leaves."""
    while not noticed():
        time.sleep(_LOOK_SECONDS)
    leave(_LEAVE_SECONDS)


if __name__ == "__main__":
    main()
