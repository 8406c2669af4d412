"""Pairs learned in phases (PTM-ST, Guo et al. 2603.25388). Each phase is a unit, with the unit of the previous phase as an
input, and appends its pairs to those of the previous phase. Students are trained on the phases one after the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vldd_dist.config.experiment import Experiment
from vldd_dist.data.prepared.image_lines import repeated_key
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.models.inputs import on_device
from vldd_dist.pipeline.context import StageContext, read_rows
from vldd_dist.seeding import derive_seed
from vldd_dist.training_loop import PHASE

# The role of the previous phase's unit among a unit's inputs.
EARLIER = "earlier"

# Puts the rows of this phase's pairs after those of the earlier phases' stored rows of the given name.
Join = Callable[[str, Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class UnitPhase:
    """The phase that a distillation's unit runs.

    Attributes:
        pairs: the number of pairs that this phase learns.
        seed: of this phase.
        join: appends the phase's pairs to those of the earlier phases.
    """

    pairs: int
    seed: int
    join: Join

    @classmethod
    def of(cls, context: StageContext) -> "UnitPhase":
        """The phase of a distillation's unit. Without phases in the description it covers all pairs."""
        spec = context.spec
        if (phase := spec.get("phase")) is None:
            return cls(spec["pairs"], spec["seed"], lambda _, rows: dict(rows))
        number, loss = phase["number"], context.model_settings.loss
        seed = derive_seed(spec["seed"], "phase", number) if number else spec["seed"]
        earlier = context.reader(EARLIER) if number else None

        @cache
        def before(name: str) -> dict[str, Tensor]:
            assert earlier is not None
            return on_device(read_rows(earlier, name), context.device)

        def join(name: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
            images = own["images"]
            rows = {**own, PHASE: torch.full((len(images),), number, device=images.device)}
            return rows if earlier is None else loss.joined_rows([before(name), rows])

        return cls(phase["pairs"], seed, join)


def joined_start(context: StageContext, own: dict[str, Any]) -> dict[str, Any]:
    """The provenance of the starting pairs of all phases up to this one, from that of this phase (`own`)."""
    if EARLIER not in context.order.inputs:
        return own
    before = context.reader(EARLIER).facts_as(DistillationFacts).start
    return own | {name: before[name] + own[name] for name in ("keys", "captions") if name in own}


def images_of_earlier_phases(context: StageContext) -> frozenset[int]:
    """Indices of the training images that the pairs of the phases before this one were initialised with.

    Raises:
        AssertionError: the source gives the key of one of them to another image too.
    """
    if EARLIER not in context.order.inputs:
        return frozenset()
    keys = set(context.reader(EARLIER).facts_as(DistillationFacts).start.get("keys", ()))
    shards = context.dataset.splits["train"].shards if keys else []
    index_of: dict[str, int] = {}
    for shard, lines in zip(shards, context.dataset.lines_of(shards), strict=True):
        for index, line in enumerate(lines, shard.first):
            if line.key in keys and index_of.setdefault(line.key, index) != index:
                raise repeated_key(line.key)
    return frozenset(index_of.values())


def experiments_of_phases(experiment: Experiment) -> Iterator[tuple[int, Experiment]]:
    """For each phase: the number of pairs of the earlier phases, for the largest number of pairs, and the experiment with the
    phase's settings."""
    earlier = 0
    for settings in experiment.distill.of_phases():
        yield earlier, experiment.model_copy(update={"distill": settings})
        earlier += max(settings.pairs)
