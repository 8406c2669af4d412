"""What an initialisation is, and the pairs that a run starts from."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from vldd_dist.config.base import Plugin
from vldd_dist.data.prepared.real_pairs import real_pairs
from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.pairs import SyntheticPairs


@dataclass(frozen=True)
class Start:
    """This rank's rows of the pairs, before distillation.

    Attributes:
        images: (m, 3, H, W) float32, normalised.
        texts: (m, D) float32.
        provenance: for the card, alike on all ranks: keys and captions of real pairs.
    """

    images: Tensor
    texts: Tensor
    provenance: dict[str, Any]


class Initialisation(Plugin):
    """Where synthetic pairs begin.

    Attributes:
        needs: inputs of the run beside the dataset: "features" (`RunContext.features`).
        of_real_pairs: whether images and texts are those of real pairs, so that one of them belongs to no other start's.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    of_real_pairs: ClassVar[bool] = True

    @abstractmethod
    def start(self, context: RunContext) -> Start:
        """The pairs `context.rows`, which are the same whatever the number of ranks."""

    def all_needs(self) -> frozenset[str]:
        """Its own, or those of the initialisations it is made of."""
        return self.needs

    def reads_real_pairs(self) -> bool:
        """Whether training images are read for it."""
        return self.of_real_pairs

    def sources(self) -> dict[str, str]:
        """For the card: what images and texts begin as."""
        return {"images": self.label, "texts": self.label}


def start_from_real(context: RunContext, indices: list[int], numbers: list[int] | None) -> Start:
    """This rank's rows of a start from real pairs.

    Args:
        indices: of the M training images, over all ranks.
        numbers: which caption of each; none: drawn.
    """
    own = slice(context.rows.start, context.rows.stop)
    numbers = numbers if numbers is None else numbers[own]
    images, texts, captions, keys = real_pairs(context.dataset, context.embeddings, indices[own], numbers, context.seed)
    all_captions, all_keys = ([one for part in context.ranks.all_gather(mine) for one in part] for mine in (captions, keys))
    return Start(
        context.model.normalise(images.to(context.device)),
        texts.to(context.device),
        {"keys": all_keys, "captions": all_captions},
    )


def starting_pairs(context: RunContext) -> tuple[SyntheticPairs, dict[str, float]]:
    """This rank's pairs as the run starts, and the outer learning rate of each of their tensors by name."""
    settings, device = context.settings, context.device
    start = settings.initialise.start(context)
    of_rows = context.loss.learned_rows(context.rows, context.total)
    of_all = settings.objective.learned_shared() | context.loss.learned_shared()
    rates = settings.rates() | {name: one.lr for name, one in (of_rows | of_all).items()}
    fixed = frozenset(name for name, rate in rates.items() if rate == 0)
    pairs = SyntheticPairs(
        {"images": start.images, "texts": start.texts} | {name: one.start.to(device) for name, one in of_rows.items()},
        {name: one.start.to(device) for name, one in of_all.items()},
        {"initialise": settings.initialise.name}
        | settings.initialise.sources()
        | {"fixed": sorted(fixed & settings.rates().keys())}
        | start.provenance,
        fixed,
    )
    return pairs, rates
