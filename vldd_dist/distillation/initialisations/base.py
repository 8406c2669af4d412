"""The interface of an initialisation, and the pairs that a distillation starts from."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vldd_dist.config.base import Plugin
from vldd_dist.data.prepared.batches.real_pairs import real_pairs
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.errors import ConfigError
from vldd_dist.models.losses import Learned
from vldd_dist.training_loop import PHASE

# Row tensors that a loss may not call its own: those of the start, the phases of a set that was learned in several, and the
# starting images in a distilled set.
RESERVED = frozenset({"images", "texts", PHASE, "start_images"})


@dataclass(frozen=True)
class Start:
    """This rank's rows of the initial pairs.

    Attributes:
        images: (m, 3, H, W) float32, normalised; of a distillation on features in memory (m, F).
        texts: (m, D) float32.
        provenance: keys and captions of the real pairs over all ranks, for the card; the same on all ranks.
    """

    images: Tensor
    texts: Tensor
    provenance: dict[str, Any]


class Initialisation(Plugin):
    """The initial values of the synthetic pairs.

    Attributes:
        needs: the inputs that it needs beside the dataset: "expert_features" (`DistillationContext.expert_features`).
        of_real_pairs: whether it takes real pairs, so that its images only match its own texts.
    """

    known_needs: ClassVar[frozenset[str]] = frozenset({"expert_features"})
    of_real_pairs: ClassVar[bool] = True

    @abstractmethod
    def start(self, context: DistillationContext) -> Start:
        """The initial pairs `context.rows`. Each pair must be the same for any number of ranks."""

    def checked_start(self, context: DistillationContext) -> Start:
        """`start`, as it is described there. A set of another size would be evaluated, and stand in tables, as one of M pairs.

        Raises:
            AssertionError: `start` returned other rows, shapes or types, or values that are not finite.
        """
        start, rows = self.start(context), len(context.rows)
        shapes = {"images": (rows, *context.image_shape), "texts": (rows, context.model.text_dim)}
        for name, shape in shapes.items():
            given: Tensor = getattr(start, name)
            if tuple(given.shape) != shape or given.dtype != torch.float32:
                raise AssertionError(
                    f"the initialisation {self.name} returned {name} {tuple(given.shape)} {given.dtype}: return {shape} "
                    f"{torch.float32}, a row for each of this rank's pairs `context.rows`"
                )
            if not bool(given.isfinite().all()):
                raise AssertionError(f"the initialisation {self.name} returned {name} with NaN or infinity: return numbers")
        return start

    def reads_real_pairs(self) -> bool:
        """Whether it reads training images."""
        return self.of_real_pairs

    def reads_captions(self) -> bool:
        """Whether it reads the embeddings of training captions."""
        return self.reads_real_pairs()

    def sources(self) -> dict[str, str]:
        """What images and texts are initialised with, for the card."""
        return {"images": self.label, "texts": self.label}


def free_indices(images: int, pairs: int, taken: frozenset[int]) -> Sequence[int]:
    """Indices of the training images that are not taken. Raises ConfigError if they are fewer than `pairs`."""
    every = range(images)
    free: Sequence[int] = [index for index in every if index not in taken] if taken else every
    if pairs > len(free):
        earlier = f", of which earlier phases use {len(taken)}" if taken else ""
        raise ConfigError(f"distill.pairs ({pairs}) is more than the training images ({images}{earlier}): lower it")
    return free


def start_from_real(context: DistillationContext, indices: list[int], numbers: list[int] | None) -> Start:
    """This rank's rows of a start from real pairs.

    Args:
        indices: indices of the M training images, over all ranks.
        numbers: the number of the caption of each; None: one is drawn.
    """
    own = slice(context.rows.start, context.rows.stop)
    numbers = numbers if numbers is None else numbers[own]
    images, texts, captions, keys = real_pairs(context.dataset, context.embeddings, indices[own], numbers, context.seed)
    all_captions = [caption for part in context.ranks.all_gather(captions) for caption in part]
    all_keys = [key for part in context.ranks.all_gather(keys) for key in part]
    return Start(
        context.model.normalise(images.to(context.device)),
        texts.to(context.device),
        {"keys": all_keys, "captions": all_captions},
    )


def starting_pairs(context: DistillationContext) -> tuple[SyntheticPairs, dict[str, float]]:
    """This rank's rows of the pairs at the start, and the outer learning rate of each of their tensors, by name.

    Raises:
        AssertionError: a plug-in returned a tensor of another shape or type, or with the name of another one.
    """
    settings, device = context.settings, context.device
    start = settings.initialise.checked_start(context)
    learned_rows = context.loss.learned_rows(context.rows, context.total)
    of_objective, of_loss = settings.objective.learned_shared(), context.loss.learned_shared()
    if taken := sorted((RESERVED & learned_rows.keys()) | (of_objective.keys() & of_loss.keys())):
        raise AssertionError(f"the loss {context.loss.name} learns a tensor {taken[0]!r}, the name of another one: rename it")
    _check_learned(f"the objective {settings.objective.name}", of_objective)
    _check_learned(f"the loss {context.loss.name}", of_loss)
    _check_learned(f"the loss {context.loss.name}", learned_rows, len(context.rows))
    learned_shared = of_objective | of_loss
    rates = settings.outer_rates() | {name: learned.lr for name, learned in (learned_rows | learned_shared).items()}
    fixed = frozenset(name for name, rate in rates.items() if rate == 0)
    rows = {"images": start.images, "texts": start.texts}
    rows |= {name: learned.start.to(device) for name, learned in learned_rows.items()}
    shared = {name: learned.start.to(device) for name, learned in learned_shared.items()}
    provenance = (
        {"initialise": settings.initialise.name}
        | settings.initialise.sources()
        | {"fixed": sorted(fixed & settings.outer_rates().keys())}
        | start.provenance
    )
    return SyntheticPairs(rows, shared, provenance, fixed), rates


def _check_learned(owner: str, learned: Mapping[str, Learned], rows: int | None = None) -> None:
    """Raises AssertionError for a tensor that is not (n, ...), n > 0, or for a row tensor without a row for each pair."""
    for name, (start, _) in learned.items():
        count = len(start) if start.ndim else 0
        if count == 0 or rows not in (None, count):
            wanted = "(n, ...), such as (1,) for one number" if rows is None else f"({rows}, ...), a row for each pair"
            raise AssertionError(f"{owner} learns {name!r} of shape {tuple(start.shape)}: give it the shape {wanted}")
