"""The boto3 clients: how long they wait, how often they retry, and what a compatible server needs.

boto3 and botocore are imported in here when a client is made: that takes half a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobspecs.storage import S3

_CONNECT_SECONDS = 5.0
_POOLED_CONNECTIONS = 128  # lanes × ranges in flight; a connection that finds no room is closed, TLS and all


class FirstContact:
    """Whether an endpoint has ever answered. One that has not is given up after its second refused connection.

    A wrong address is then told within 0.5 s (nobody listens) to 11 s (packets vanish). Once the
    endpoint has answered, an outage gets all the retries.
    """

    def __init__(self) -> None:
        self._answered = False

    def hopeless(self, error: Exception | None, attempts: int) -> bool:
        """Whether to give up, when `attempts` have failed and the last one with `error`."""
        from botocore.exceptions import ConnectionError as NoConnectionError

        return not self._answered and attempts >= 2 and isinstance(error, NoConnectionError)

    def __call__(self, response: object, attempts: int, caught_exception: Exception | None, **_: object) -> None:
        """Called by botocore after each attempt; what is raised here ends the attempts."""
        self._answered = self._answered or response is not None
        if caught_exception is not None and self.hopeless(caught_exception, attempts):
            raise caught_exception


@dataclass(frozen=True)
class Connection:
    """The boto3 clients of one endpoint, for all threads."""

    calls: Any
    """For everything but reading. botocore makes up to five attempts at a call."""
    ranges: Any
    """For reading. It retries nothing, because a range is retried as a whole."""
    contact: FirstContact
    """Of both."""


def connect(s3: S3) -> Connection:
    """The clients of an endpoint. Their session is their own: sharing the default one isn't thread-safe."""
    import boto3.session
    from botocore.config import Config

    config = Config(
        connect_timeout=min(_CONNECT_SECONDS, s3.timeout_seconds),
        read_timeout=s3.timeout_seconds,
        max_pool_connections=_POOLED_CONNECTIONS,
    )
    if s3.endpoint is not None:
        # Many S3-compatible servers know neither the newer checksums nor a host name per bucket.
        compatible = Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        )
        config = config.merge(compatible)
    session, contact = boto3.session.Session(), FirstContact()

    def client(attempts: int) -> Any:
        retries = Config(retries={"mode": "standard", "total_max_attempts": attempts})
        made = session.client("s3", endpoint_url=s3.endpoint, region_name=s3.region, config=config.merge(retries))
        made.meta.events.register_first("needs-retry.s3", contact)
        return made

    return Connection(client(5), client(1), contact)
