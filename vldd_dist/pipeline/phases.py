"""Pairs learned in phases (PTM-ST, Guo et al. 2603.25388): each phase is a unit of its own, which has the unit of the phase
before as an input, and puts its own pairs behind that one's. Students are trained on the phases one after the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vldd_dist.config.experiment import Experiment
from vldd_dist.distilled_set.manifest import PHASE
from vldd_dist.pipeline.context import StageContext, read_rows
from vldd_dist.seeding import derive_seed

# The role of the unit of the phase before.
EARLIER = "earlier"

# (name of the rows, rows of this phase's pairs) -> those of all pairs so far.
Join = Callable[[str, Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class UnitPhase:
    """What of a run is its phase's.

    Attributes:
        pairs: that are learned.
        seed: of the run.
        join: puts them behind those of the earlier phases.
    """

    pairs: int
    seed: int
    join: Join

    @classmethod
    def of(cls, context: StageContext) -> "UnitPhase":
        """Of a distillation's unit; without phases of all pairs."""
        spec = context.spec
        if (phase := spec.get("phase")) is None:
            return cls(spec["pairs"], spec["seed"], lambda _, rows: dict(rows))
        number, loss = phase["number"], context.model_settings.loss
        seed = derive_seed(spec["seed"], "phase", number) if number else spec["seed"]
        earlier = context.reader(EARLIER) if number else None

        @cache
        def before(name: str) -> dict[str, Tensor]:
            assert earlier is not None
            return {key: tensor.to(context.device) for key, tensor in read_rows(earlier, name).items()}

        def join(name: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
            images = own["images"]
            rows = {**own, PHASE: torch.full((len(images),), number, device=images.device)}
            return rows if earlier is None else loss.joined_rows([before(name), rows])

        return cls(phase["pairs"], seed, join)


def joined_start(context: StageContext, own: dict[str, Any]) -> dict[str, Any]:
    """The provenance of the starts of all pairs so far."""
    if EARLIER not in context.order.inputs:
        return own
    before = context.reader(EARLIER).facts["start"]
    return own | {name: before[name] + own[name] for name in ("keys", "captions") if name in own}


def experiments_of_phases(experiment: Experiment) -> Iterator[tuple[int, Experiment]]:
    """For each phase the pairs of the earlier ones, of the largest budget, and the experiment with the phase's settings."""
    earlier = 0
    for settings in experiment.distill.of_phases():
        yield earlier, experiment.model_copy(update={"distill": settings})
        earlier += max(settings.pairs)
