"""The addresses at which processes accept connections."""

from collections.abc import Set

import psutil

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def running_processes() -> set[int]:
    """Process ids of this process and of all processes that it started."""
    return {process.pid for process in [psutil.Process(), *psutil.Process().children(recursive=True)]}


def listening_sockets(but: Set[int] = frozenset()) -> list[tuple[str, str]]:
    """Name and address of each socket on which this process or one started by it accepts connections.

    Args:
        but: ids of processes to leave out, for example those that were already running: a test's worker may keep a group of
            ranks from an earlier test.
    """
    listening = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        if process.pid in but:
            continue
        try:
            sockets = process.net_connections("inet")
            listening += [(process.name(), connection.laddr.ip) for connection in sockets if connection.status == "LISTEN"]
        except psutil.Error:
            continue
    return listening
