"""Ports for servers that are told theirs."""

from __future__ import annotations

import os
import socket


def free_ports(count: int) -> int:
    """The first of some that are free in a row, below those that the system hands out."""
    for first in range(27000 + os.getpid() % 100 * 50, 32000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no ports are free")
