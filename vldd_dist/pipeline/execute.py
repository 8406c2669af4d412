"""One attempt at a unit, on one process or on several ranks."""

import logging
import os
from collections.abc import Callable

import torch

from vldd_dist.artifacts.checkpoints import AlreadyCommitted
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.events import Report, UnitReport
from vldd_dist.logs import bound
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.out_of_memory import naming_what_to_lower
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.pipeline.work_unit import UnitOrder
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store

logger = logging.getLogger(__name__)


def execute(
    order: UnitOrder, store: Store, report: Report, ranks: Ranks = SOLO, should_stop: Callable[[], bool] = lambda: False
) -> None:
    """One attempt at a unit: run it and commit its manifest, unless another writer is found to have done so. Of several ranks
    all call it; the first one reports and commits what all have written. A long unit that is to stop stores where it is.

    Raises:
        VlddError: with a sentence for the user; anything else is a mistake of the program.
    """
    _limit_threads(max(1, int(order.cpus)))
    inputs = {role: f"{kind}/{unit_id}" for role, (kind, unit_id) in order.inputs.items()}
    writer = UnitWriter(store, order.kind, order.id, order.spec, inputs)
    context = StageContext(order, store, writer, report if ranks.is_main else _nothing, ranks, should_stop)
    with bound(attempt=writer.attempt):
        logger.info("attempt %s at %s/%s begins", writer.attempt, order.kind, order.id)
        stage = stage_of(order.kind)
        try:
            with naming_what_to_lower(stage, order.label):
                facts = stage.run(context)
        except AlreadyCommitted as stop:
            logger.warning("%s", stop)
            return
    written = ranks.all_gather(writer.objects)
    if ranks.is_main:
        for objects in written:
            writer.objects |= objects
        writer.commit(facts)


def _limit_threads(count: int) -> None:
    """No unit computes on more CPUs than it asks for."""
    # The number of threads shapes the order of sums: it is part of what makes a rerun equal.
    torch.set_num_threads(count)
    # Of the text encoder's tokenizer, which else takes all of the machine. It looks at the second at each call, at the first
    # when it first uses threads.
    os.environ["RAYON_NUM_THREADS"] = str(count)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"


def _nothing(event: UnitReport) -> None:
    """Of several ranks one reports."""
