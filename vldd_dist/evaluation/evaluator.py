"""Students trained from the starting weights on M pairs: how a coreset or a distilled set is judged."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vldd_dist.config.sections.evaluation import EvaluationSettings
from vldd_dist.distilled_set.manifest import PHASE
from vldd_dist.distilled_set.training import phases_of, sgd, train_epochs
from vldd_dist.errors import DivergenceError
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, measure
from vldd_dist.retrieval.recall import Recall
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import SOLO, Ranks, rows_to_compute
from vldd_dist.sharding.replicas import Replicas


@dataclass(frozen=True)
class TrainingPairs:
    """What a student is trained on; of several ranks each has the rows `ranks.rows(total)`.

    Attributes:
        rows: `images` (M, 3, H, W) float32, normalised, `texts` (M, D), of synthetic pairs what the loss adds, and `phase` (M,)
            int64 of those learned in phases. As `in_model_inputs` returns them, `inputs` in place of `images`.
        total: M over all ranks.
        shared: of synthetic pairs, by name.
    """

    rows: Mapping[str, Tensor]
    total: int
    ranks: Ranks = SOLO
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def in_model_inputs(self, model: DualEncoder) -> "TrainingPairs":
        """The same with `inputs`, what models with the image tower of this one are trained on: the images, or their features by
        a frozen backbone, (M, F)."""
        others = {name: rows for name, rows in self.rows.items() if name != "images"}
        return replace(self, rows=others | {"inputs": model_inputs(model, self.rows["images"])})


@dataclass(frozen=True)
class Evaluator:
    """The protocol, the same for every set of pairs and every number of ranks: each has a whole student, computes its rows of
    a batch, and they sum their gradients.

    Attributes:
        build_student: a dual encoder at its starting weights, on its device; called anew for each learning rate.
        seed: of the order of the pairs and of dropout.
    """

    build_student: Callable[[], DualEncoder]
    settings: EvaluationSettings
    loss: Loss
    seed: int

    def choose(self, pairs: TrainingPairs, validation: RetrievalSplit) -> "Choice":
        """Train one student for each learning rate of the list and keep the one that validates best.

        Raises:
            DivergenceError: every learning rate of the list ended in NaN.
        """
        recalls: dict[float, Recall] = {}
        encoded: TrainingPairs | None = None
        best: tuple[float, DualEncoder] | None = None
        for rate in self.settings.learning_rates:
            student = self.build_student()
            # Every student begins with the same weights, so a frozen backbone sees the images once.
            encoded = encoded or pairs.in_model_inputs(student)
            if not train_student(student, encoded, self.settings, rate, self.loss, self.seed):
                continue
            recalls[rate] = measure(student, validation, self.settings.encode_batch, pairs.ranks)
            if best is None or recalls[rate].mean > recalls[best[0]].mean:
                best = rate, student
        if best is None:
            rates = ", ".join(f"{rate:g}" for rate in self.settings.learning_rates)
            raise DivergenceError(
                f"students diverge at every learning rate ({rates}): add a lower one to evaluation.learning_rates"
            )
        return Choice(best[0], best[1], recalls)


@dataclass(frozen=True)
class Choice:
    """The learning rate chosen on validation, its student, and the validation recall of every rate that did not diverge."""

    learning_rate: float
    student: DualEncoder
    validation: dict[float, Recall]

    @property
    def recall(self) -> Recall:
        return self.validation[self.learning_rate]


def train_student(
    model: DualEncoder,
    pairs: TrainingPairs,
    settings: EvaluationSettings,
    learning_rate: float,
    loss: Loss,
    seed: int,
) -> bool:
    """Train in place with SGD; False when the loss became NaN or infinite. Of pairs in phases, on one phase after the other,
    each for all epochs.

    Args:
        pairs: in model inputs.
    """
    ranks = pairs.ranks
    rows = dict(pairs.rows)
    inputs, texts = rows.pop("inputs"), rows.pop("texts")
    phases = _phases(rows.pop(PHASE, None), pairs)
    trained = Replicas(model, sgd(ParameterView(model).parameters, settings, learning_rate), ranks)

    def part_of_loss(batch: Tensor) -> Tensor:
        """This rank's part, 1/world of the loss of the whole batch."""
        parts = [batch[slice(*rows_to_compute(rank, ranks.world_size, len(batch)))] for rank in range(ranks.world_size)]
        exchange = Exchange(ranks, pairs.total, parts)
        model.gather_rows = gather_rows = ranks.rows_gatherer(len(batch))
        image_features, text_features = model(exchange.to_users(inputs), exchange.to_users(texts))
        of_loss = {name: gather_rows(exchange.to_users(values)) for name, values in rows.items()}
        return loss(image_features, text_features, of_loss, pairs.shared) / ranks.world_size

    parts = train_epochs([model], part_of_loss, trained.step, phases, settings, seed, inputs.device)
    return math.isfinite(parts[-1])


def _phases(own: Tensor | None, pairs: TrainingPairs) -> list[Tensor]:
    """The numbers of each phase's pairs.

    Args:
        own: the phase of each of this rank's pairs; none: there are no phases.
    """
    if own is None:
        return [torch.arange(pairs.total)]
    return phases_of(torch.tensor([phase for part in pairs.ranks.all_gather(own.tolist()) for phase in part]))
