"""One attempt at a unit, in one process or on several ranks."""

import logging
import os
import platform
from collections.abc import Callable
from dataclasses import fields

import torch

from vldd_dist.artifacts.checkpoints import AlreadyCommitted
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import is_done
from vldd_dist.errors import OtherVersion, message_of
from vldd_dist.events import SendReport, UnitReport
from vldd_dist.logs import bound
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.out_of_memory import naming_what_to_lower
from vldd_dist.pipeline.revisions import revisions_here, revisions_in, said
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.pipeline.work_unit import UnitOrder, id_of
from vldd_dist.plugins import STAGES
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store

logger = logging.getLogger(__name__)


def execute(
    order: UnitOrder, store: Store, report: SendReport, ranks: Ranks = SOLO, should_stop: Callable[[], bool] = lambda: False
) -> None:
    """Compute a unit and commit its manifest, unless it is committed already, by another run or by an earlier attempt whose
    answer was lost.

    If the unit has several ranks, each of them calls this; rank 0 sends reports and commits the objects of all ranks. When
    `should_stop` returns True, a long unit stores a checkpoint and ends.

    Raises:
        VlddError: with a sentence for the user. Any other exception is a bug.
    """
    # Its checkpoints were removed with the commit, so the whole unit would be computed again.
    if ranks.broadcast(ranks.is_main and is_done(store, order.kind, order.id)):
        logger.info("%s/%s is already committed", order.kind, order.id)
        return
    _limit_threads(max(1, int(order.worker_cpus)))
    inputs = {role: f"{kind}/{unit_id}" for role, (kind, unit_id) in order.inputs.items()}
    writer = UnitWriter(store, order.kind, order.id, order.spec, inputs)
    context = StageContext(order, store, writer, report if ranks.is_main else _nothing, ranks, should_stop)
    with bound(attempt=writer.attempt):
        logger.info("attempt %s at %s/%s begins", writer.attempt, order.kind, order.id)
        stage = stage_of(order.kind)
        try:
            with naming_what_to_lower(stage, order.label, order.worker_gpus):
                facts = stage.run(context)
        except AlreadyCommitted as stop:
            logger.warning("%s", stop)
            return
    written = ranks.all_gather(writer.objects)
    if ranks.is_main:
        for objects in written:
            writer.objects |= objects
        writer.commit(facts, cpus=order.worker_cpus * order.workers, gpus=order.worker_gpus * order.workers)


def check_version(order: UnitOrder) -> None:
    """Raises OtherVersion unless this process computes what the unit's id stands for. The id has the stage's version and the
    plug-ins' revisions in the driver's code, which is not the code of this machine if it has an older image or an installation
    of its own. Call it before anything else reads an order of another process: one of other code may have other fields."""
    machine = f"the machine {platform.node()} has another"
    mend = "use one image, under a tag of its own, or one installation on all machines"
    if not _is_of_this_code(order):
        raise OtherVersion(f"{machine} version of vldd_dist, or of a plug-in, than the driver: {mend}")
    for name, revision in revisions_in(order.spec):
        here, errors = revisions_here(name)
        if revision in here:
            continue
        if errors:
            raise OtherVersion(f"the machine {platform.node()} cannot load the plug-in {name!r}: {message_of(errors[0])}")
        raise OtherVersion(f"{machine} revision of the plug-in {name!r} ({said(here)}) than the unit ({revision}): {mend}")


def _is_of_this_code(order: UnitOrder) -> bool:
    # Unpickled, it has the fields of the driver's class.
    if vars(order).keys() != {field.name for field in fields(UnitOrder)} or order.kind not in STAGES:
        return False
    inputs = {role: unit_id for role, (_, unit_id) in order.inputs.items()}
    return id_of(order.kind, stage_of(order.kind).version, order.spec, inputs) == order.id


def _limit_threads(count: int) -> None:
    """Keep the process from computing on more CPUs than the unit asks for."""
    # The number of threads also determines the order of summation, so a rerun gives equal bits only with the same number.
    torch.set_num_threads(count)
    # These two limit the text encoder's tokenizer, which would use all cores of the machine. It reads TOKENIZERS_PARALLELISM
    # at each call, and RAYON_NUM_THREADS when it first uses threads.
    os.environ["RAYON_NUM_THREADS"] = str(count)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"


def _nothing(event: UnitReport) -> None:
    """Drops the report: of several ranks, only rank 0 reports."""
