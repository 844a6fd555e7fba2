"""The boto3 client: how long it waits, how often it retries, and what a compatible server needs.

boto3 and botocore are imported in here when a client is made: that takes half a second.
"""

from __future__ import annotations

from typing import Any

from jobspecs.storage import S3


def connect(s3: S3) -> Any:
    """A boto3 client. It has a session of its own, because sharing the default one isn't thread-safe."""
    import boto3.session
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 5},
    )
    if s3.endpoint is not None:
        # Many S3-compatible servers know neither the newer checksums nor a host name per bucket.
        compatible = Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        )
        config = config.merge(compatible)
    client = boto3.session.Session().client("s3", endpoint_url=s3.endpoint, region_name=s3.region, config=config)
    client.meta.events.register_first("needs-retry.s3", _FirstContact())
    return client


class _FirstContact:
    """Gives up on an endpoint that has never answered after its second refused connection.

    A wrong address is then told within 0.5 s (nobody listens) to 11 s (packets vanish). Once the
    endpoint has answered, an outage gets all the retries. Called by botocore after each attempt.
    """

    def __init__(self) -> None:
        self._answered = False

    def __call__(self, response: object, attempts: int, caught_exception: Exception | None, **_: object) -> None:
        from botocore.exceptions import ConnectionError as NoConnectionError

        self._answered = self._answered or response is not None
        if not self._answered and attempts >= 2 and isinstance(caught_exception, NoConnectionError):
            raise caught_exception
