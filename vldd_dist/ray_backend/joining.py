"""Joining a Ray cluster, or starting Ray on this machine."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from vldd_dist.errors import ConfigError, InterruptedRun, first_line

# How many times starting Ray on this machine is tried.
STARTS = 3
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
PROBE_SECONDS = 10
TOKEN = (
    "set RAY_AUTH_MODE=token, with the token in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names or in "
    "~/.ray/auth_token"
)

logger = logging.getLogger(__name__)


def cluster_address() -> str | None:
    """The address of the cluster that RAY_ADDRESS names; None if it names none. As for Ray, this includes an empty value, by
    which a shell unsets it for one command, and `local`."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def start_ray(**options: Any) -> None:
    """Start Ray on this machine. Its services listen on 127.0.0.1 only. Ray gives its processes 30 s to start, which may be too
    short on a busy machine, so a failed start is tried again.

    Args:
        options: for `ray.init`.

    Raises:
        InterruptedRun: Ray did not start in `STARTS` tries.
    """
    for tries_left in reversed(range(STARTS)):
        try:
            with _loopback():
                # "local" starts a new Ray; without an address, Ray joins the cluster that was last started on this machine.
                ray.init(address="local", include_dashboard=False, **QUIET, **options)
            return
        except Exception as error:  # Ray raises nothing narrower here.
            ray.shutdown()
            if not tries_left:
                raise InterruptedRun(
                    f"Ray did not start on this machine in {STARTS} tries ({first_line(error)}): run the same command again "
                    "when the machine is less busy"
                ) from None
            logger.warning("Ray did not start on this machine (%s): trying again", first_line(error))


@contextmanager
def _loopback() -> Iterator[None]:
    """If Ray is started within the `with` block, it uses 127.0.0.1 as this machine's address, as by default on macOS. Ray's
    processes read the setting from the environment; this process read it when it imported Ray, so it is changed in the module.
    `_node_ip_address="127.0.0.1"` has no effect, because `ray.init` replaces it by an address that other machines can reach."""
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    variable, enabled = os.environ.get(name), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if variable is None:
            del os.environ[name]
        else:
            os.environ[name] = variable


def join_cluster(address: str) -> None:
    """Join the cluster that RAY_ADDRESS names.

    Args:
        address: the value of RAY_ADDRESS.

    Raises:
        ConfigError: it cannot be joined.
    """
    try:
        _probe(address)
        ray.init(**QUIET)
    except AuthenticationError as error:
        raise ConfigError(f"RAY_ADDRESS={address}: the cluster asks for its token ({first_line(error)}): {TOKEN}") from None
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: the cluster cannot be joined ({first_line(error)}): "
            "correct the address, or unset it to start Ray on this machine"
        ) from None


def _probe(address: str) -> None:
    """Send one request to the cluster's control service, to fail early. With a wrong token, `ray.init` gives up after 20 s
    without saying why. If nothing answers at the address, `ray.init` takes minutes, and this takes 40 s.

    Raises:
        AuthenticationError: the token is wrong or missing.
        RpcError: nothing answers.
    """
    # Other forms ("auto", "ray://...") are resolved by `ray.init`.
    if re.fullmatch(r"[^/]+:\d+", address):
        GcsClient(address=address).internal_kv_exists(b"probe", namespace=None, timeout=PROBE_SECONDS)
