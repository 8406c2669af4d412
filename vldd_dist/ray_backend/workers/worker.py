"""Runs one attempt at a unit in a worker process. Importing this module imports all our modules that any unit needs."""

import logging
import platform
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import torch
from ray.util.queue import Queue

# These three are otherwise imported late: the first when an objective is opened, so that objectives can be loaded without the
# libraries that read shards; the others by a publication and by an engine.
import vldd_dist.data.prepared.batches.real_batches
import vldd_dist.distilled_set.publishing.presentation
import vldd_dist.sharding.engines.fsdp_model  # noqa: F401
from vldd_dist.artifacts.units import is_store
from vldd_dist.errors import OtherOnThisMachine, Outage, UnusableHere, VlddError, first_line
from vldd_dist.events import Progress, UnitReport
from vldd_dist.logs import bound, start_logging
from vldd_dist.pipeline.execute import check_version, execute
from vldd_dist.pipeline.outcome import DONE, InputAwaited, Outcome
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.plugins import load_all
from vldd_dist.ray_backend.signals import CaughtSignals
from vldd_dist.ray_backend.workers import start
from vldd_dist.ray_backend.workers.exceptions import describe, is_of_the_machine, plain
from vldd_dist.ray_backend.workers.messages import encode
from vldd_dist.sharding.gpu_watch import watching
from vldd_dist.sharding.ranks import SOLO, LostRank, Ranks
from vldd_dist.sharding.rendezvous import JoinFailed, Rendezvous, join
from vldd_dist.store.store import Store

REPORT_INTERVAL_SECONDS = 0.5

logger = logging.getLogger(__name__)

load_all()


def run_checked(
    order: UnitOrder, store: Store, events: Queue, node: str, rendezvous: tuple[str, int] | None, rank: int
) -> dict[str, Any]:
    """Compare the stage's version, join the other ranks and run the order, with log lines that name the unit. Never raises.
    Returns the fields of the attempt's `Outcome` as a dict, which can be read without our modules.

    Args:
        node: Ray's id of this process's node.
        rendezvous: host and port, if the unit has several ranks.
    """
    start_logging()
    try:
        check_version(order)
    except VlddError as error:
        return asdict(replace(_ended_by(error), node=node))
    except Exception as error:
        # The stage's module, or a library that it imports, does not work on this machine.
        logger.exception("failed")
        return asdict(Outcome("broken", describe(error), 1, node=node))
    with bound(unit=order.label, node=node):
        try:
            ranks = SOLO if rendezvous is None else _join(order, Rendezvous(*rendezvous), rank)
        except JoinFailed as error:
            return asdict(Outcome("lost", str(error), 1, missing=error.missing))
        except RuntimeError as error:
            cause = f"rank {rank} of {order.workers} could not join the others: {plain(first_line(error))}"
            return asdict(Outcome("lost", cause, 1))
        outcome = run_order(order, store, events, node, ranks)
        logger.info("ended: %s%s", outcome.status, f", {outcome.cause}" if outcome.cause else "")
        return asdict(replace(outcome, node=node))


def run_order(order: UnitOrder, store: Store, events: Queue, node: str, ranks: Ranks = SOLO) -> Outcome:
    """Execute an order, sending reports and obeying stop signals; exceptions become outcomes. Never raises."""
    last_sent = -float("inf")

    def report(event: UnitReport) -> None:
        nonlocal last_sent
        now = time.monotonic()
        # At most one progress report is sent in each interval, except for the final one. The first is sent whatever was sent
        # before it, because it says from where a resumed unit goes on.
        if not isinstance(event, Progress) or event.done == event.total or now - last_sent >= REPORT_INTERVAL_SECONDS:
            last_sent = now if isinstance(event, Progress) else last_sent
            events.actor.put_nowait.remote((order.id, encode(event, node)))

    try:
        # Ray cancels a task by SIGINT.
        with CaughtSignals(signal.SIGINT) as signals, ranks.noticing_a_loss(), _watch(order, events, node, ranks):
            _require_marked(store)
            execute(order, store, report, ranks, signals.any)
        return DONE
    except InputAwaited as wait:
        return Outcome("waits", f"waits for {wait.role}", awaits=order.inputs[wait.role][1])
    except VlddError as error:
        return _ended_by(error)
    except LostRank as error:
        return Outcome("lost", str(error), 1)
    except Exception as error:
        logger.exception("failed")
        return Outcome("broken" if is_of_the_machine(error) else "crashed", describe(error), 1)


def _ended_by(error: VlddError) -> Outcome:
    if isinstance(error, Outage):
        return Outcome("outage", str(error), error.exit_code)
    where = f" (on the machine {platform.node()})" if isinstance(error, OtherOnThisMachine) else ""
    return Outcome("broken" if error.may_be_of_the_machine else "refused", f"{error}{where}", error.exit_code)


def _require_marked(store: Store) -> None:
    """Raises UnusableHere if the run has not marked this store. A folder that is not mounted on this machine looks like an
    empty store, and what is committed there would be lost."""
    if not is_store(store):
        raise UnusableHere(
            f"{store.url}: on the machine {platform.node()} this is not the store of the run: mount the same folder on every "
            "machine, or use a store in a bucket (s3://...)"
        )


def _join(order: UnitOrder, rendezvous: Rendezvous, rank: int) -> Ranks:
    timeout = timedelta(seconds=order.rank_timeout_seconds)
    return join(rendezvous, rank, order.workers, device=_device_of_ranks(order), timeout=timeout)


def _watch(order: UnitOrder, events: Queue, node: str, ranks: Ranks) -> AbstractContextManager[None]:
    """Ends the process if this is a rank whose GPU waits for another one too long: its main thread cannot return an answer."""
    if ranks.world_size == 1:
        return nullcontext()

    def leave(sentence: str) -> None:
        logger.error("ends: %s", sentence)
        start.leave(asdict(Outcome("lost", sentence, 1, node=node)), order.id, events, ranks.rank)

    return watching(_device_of_ranks(order), timedelta(seconds=order.rank_timeout_seconds), leave)


def _device_of_ranks(order: UnitOrder) -> torch.device:
    # A rank whose GPU does not work must fail: with another backend than the others' it would let them wait.
    return torch.device("cuda" if order.worker_gpus > 0 and order.device != "cpu" else "cpu")
