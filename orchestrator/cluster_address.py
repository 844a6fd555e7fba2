"""Where a Ray cluster's dashboard is, and the token that it may ask for.

A cluster is named by `--address`, or by the environment as Ray's own commands take it. The dashboard's URL needs no Ray
here; any other address (`head:6379`, `auto`, `ray://…`) is Ray's to translate.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jobspecs.errors import UsageError
from orchestrator.environment import variables

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray's own commands look for an address, in this order."""
LOCAL = "http://127.0.0.1:8265"
"""The dashboard of a cluster on this machine, unless it was started on another port."""
KNOCK_SECONDS = 5.0


def given_address(option: str | None) -> str | None:
    """The cluster that the user means: by --address, else by the environment; None: none is named."""
    named = (os.environ.get(variable) for variable in ADDRESS_VARIABLES)
    return option or next(filter(None, named), None)


def dashboard_url(address: str) -> str:
    """The URL of the dashboard at an address of any kind. Raises UsageError: nobody is there, or lets us in."""
    if "@" in address:  # messages and answers name the address
        raise UsageError(
            "the address of a cluster holds no user or password. Leave them out; a token comes from RAY_AUTH_TOKEN or "
            "a file, as Ray has it."
        )
    if address.startswith(("http://", "https://")):
        return address
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
        except OSError as error:
            raise UsageError(not_there(address)) from error
    return _asked_of_ray(address)


def _asked_of_ray(address: str) -> str:
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray.dashboard.utils import get_address_for_submission_client
    from ray.exceptions import AuthenticationError, RayError

    for logger in ("ray.dashboard", "ray._private.authentication"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    # Ray uses a token that is there for clusters that it finds, and not for those that are named.
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        with only_address(address):
            return str(get_address_for_submission_client(address))
    except AuthenticationError as error:
        raise UsageError(wrong_token(address)) from error
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise UsageError(not_there(address)) from error


@contextlib.contextmanager
def only_address(address: str) -> Iterator[None]:
    """Ray takes an address of the environment before one that it is given."""
    first, *others = ADDRESS_VARIABLES
    with variables({first: address, **dict.fromkeys(others)}):
        yield


def token() -> str:
    """Where Ray looks for it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token; "" for none."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return ""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def wrong_token(address: str) -> str:
    """What to do where a token is not the cluster's."""
    return (
        f"the cluster at {address} does not take this token. Is it another cluster's? RAY_AUTH_TOKEN counts before the "
        "file RAY_AUTH_TOKEN_PATH, and that before ~/.ray/auth_token."
    )


def not_there(address: str) -> str:
    """What to do where nobody, or somebody else, answers."""
    hint = "" if address.startswith("https") else " A dashboard behind TLS has an https:// address."
    return (
        f"there is no Ray cluster at {address}. Start it, or correct the address: --address, or RAY_ADDRESS, is the "
        f"dashboard's URL (port 8265, unless it was started on another) or the cluster's own host:port.{hint}"
    )
