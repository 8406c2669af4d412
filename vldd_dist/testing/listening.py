"""Where processes accept connections."""

import psutil

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def listening_sockets() -> list[tuple[str, str]]:
    """Name and address of each socket on which this process or one started by it accepts connections."""
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            sockets = process.net_connections("inet")
            found += [(process.name(), connection.laddr.ip) for connection in sockets if connection.status == "LISTEN"]
        except psutil.Error:
            continue
    return found
