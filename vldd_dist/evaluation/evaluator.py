"""Students trained from the starting weights on M pairs: how a coreset or a distilled set is judged."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vldd_dist.config.evaluation import EvaluationSettings
from vldd_dist.errors import DivergenceError
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.losses import contrastive_loss
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, measure
from vldd_dist.retrieval.recall import Recall
from vldd_dist.seeding import derive_seed, numpy_generator
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import SOLO, Ranks, rows_to_compute
from vldd_dist.sharding.replicas import Replicas


@dataclass(frozen=True)
class TrainingPairs:
    """What a student is trained on; of several ranks each has the rows `ranks.rows(total)`.

    Attributes:
        images: (M, 3, H, W) float32, normalised.
        texts: (M, D).
        total: M over all ranks.
    """

    images: Tensor
    texts: Tensor
    total: int
    ranks: Ranks = SOLO


@dataclass(frozen=True)
class Judge:
    """The protocol, the same for every set of pairs and every number of ranks: each has a whole student, computes its share of
    a batch, and they sum their gradients.

    Attributes:
        build_student: a dual encoder at its starting weights, on its device; called anew for each learning rate.
        seed: of the order of the pairs and of dropout.
    """

    build_student: Callable[[], DualEncoder]
    settings: EvaluationSettings
    temperature: float
    seed: int

    def choose(self, pairs: TrainingPairs, validation: RetrievalSplit) -> "Choice":
        """Train one student for each learning rate of the list and keep the one that validates best.

        Raises:
            DivergenceError: every learning rate of the list ended in NaN.
        """
        recalls: dict[float, Recall] = {}
        best: tuple[float, DualEncoder] | None = None
        for rate in self.settings.learning_rates:
            student = self.build_student()
            if not train_student(student, pairs, self.settings, rate, self.temperature, self.seed):
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
    temperature: float,
    seed: int,
) -> bool:
    """Train in place with SGD on symmetric InfoNCE; False when the loss became NaN or infinite."""
    model.train()
    ranks = pairs.ranks
    inputs = model_inputs(model, pairs.images)
    optimiser = torch.optim.SGD(
        ParameterView(model).parameters,
        lr=learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    trained = Replicas(model, optimiser, ranks)

    def share_of_loss(chosen: Tensor) -> Tensor:
        rows = chosen.sort().values
        parts = [rows[slice(*rows_to_compute(rank, ranks.world_size, len(rows)))] for rank in range(ranks.world_size)]
        exchange = Exchange(ranks, pairs.total, parts)
        model.gather_rows = ranks.rows_gatherer(len(rows))
        images, texts = model(exchange.to_users(inputs), exchange.to_users(pairs.texts))
        return contrastive_loss(images, texts, temperature) / ranks.world_size

    def finite(share: Tensor) -> bool:
        return math.isfinite(share.item())

    devices = [pairs.images.device] if pairs.images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, "student", "dropout"))
        for epoch in range(settings.epochs):
            order = torch.from_numpy(numpy_generator(seed, "student", epoch).permutation(pairs.total))
            for chosen in order.split(settings.batch_size):
                share = share_of_loss(chosen)
                trained.step(share)
            if not finite(share):
                return False
    # Once more: the last step, too, can be the one that diverges.
    model.eval()
    with torch.no_grad():
        return finite(share_of_loss(chosen))
