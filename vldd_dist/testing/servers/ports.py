"""Free ports for servers that cannot choose one themselves."""

import os
import secrets
import socket
from itertools import cycle, islice

# Below the ports that Linux gives to outgoing connections, and above those of Ray's workers and of `cluster.local`: no other
# program gets a port between its choice and the start of its server. Each worker of pytest-xdist has ports of its own.
FIRST, LAST, PORTS_A_WORKER = 26_000, 32_767, 200

_workers = (LAST + 1 - FIRST) // PORTS_A_WORKER
_first = FIRST + int(os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw") or 0) % _workers * PORTS_A_WORKER
# Another run of the tests on this machine most probably begins at another port.
_begin = secrets.randbelow(PORTS_A_WORKER)
_ports = cycle(_first + (_begin + offset) % PORTS_A_WORKER for offset in range(PORTS_A_WORKER))


def free_port() -> int:
    """A port of this machine on which no process listens. The next calls of this process return other ports."""
    for port in islice(_ports, PORTS_A_WORKER):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"no free port from {_first} to {_first + PORTS_A_WORKER - 1}")
