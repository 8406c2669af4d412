"""Evaluates a coreset or a distilled set: students are trained on its M pairs from the starting weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor

from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.errors import DivergenceError
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.inputs import model_inputs
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, measure
from vldd_dist.retrieval.recall import Recall
from vldd_dist.sharding.engines.replicas import Replicas
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import SOLO, Ranks, rows_to_compute
from vldd_dist.training_loop import PHASE, phases_of, sgd, train_epochs


@dataclass(frozen=True)
class TrainingPairs:
    """The pairs that a student is trained on. With several ranks, each has the rows `ranks.rows(total)`.

    Attributes:
        rows: `images` (M, 3, H, W) float32, normalised, and `texts` (M, D); for synthetic pairs also the loss's row tensors,
            and `phase` (M,) int64 if they were learned in phases. After `in_model_inputs`, the model inputs as `images`.
        total: M, over all ranks.
        shared: the loss's shared tensors by name, for synthetic pairs.
    """

    rows: Mapping[str, Tensor]
    total: int
    ranks: Ranks = SOLO
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def in_model_inputs(self, model: DualEncoder) -> "TrainingPairs":
        """The same pairs with model inputs as their `images`, for training models with the same image tower: the images, or
        their features (M, F) if the backbone is frozen."""
        return replace(self, rows={**self.rows, "images": model_inputs(model, self.rows["images"])})


@dataclass(frozen=True)
class Evaluator:
    """The evaluation protocol, which is the same for every set of pairs and any number of ranks. Each rank has a replica of the
    student and computes its rows of each batch; the gradients are summed over the ranks.

    Attributes:
        build_student: returns a dual encoder at its starting weights, on its device; called once for each learning rate.
        seed: seed of the order of the pairs and of dropout.
    """

    build_student: Callable[[], DualEncoder]
    settings: EvaluationProtocol
    loss: Loss
    seed: int

    def choose(
        self, pairs: TrainingPairs, validation: RetrievalSplit, report: Callable[[int, int], None] = lambda done, total: None
    ) -> "Choice":
        """Train one student with each learning rate of the settings, and keep the one that validates best. The choice and
        the recalls are the same on all ranks.

        Args:
            report: called after each epoch with the number of epochs of all students that are done, and of all.

        Raises:
            DivergenceError: training diverges at every learning rate.
        """
        ranks, recalls = pairs.ranks, dict[float, Recall]()
        encoded: TrainingPairs | None = None
        best: tuple[float, DualEncoder] | None = None
        rates = self.settings.learning_rates
        for number, rate in enumerate(rates):

            def epoch_ended(epoch: int, epochs: int, earlier: int = number) -> None:
                report(earlier * epochs + epoch, len(rates) * epochs)

            student = self.build_student()
            # All students start from the same weights, so the features of a frozen backbone are computed only once.
            encoded = encoded or pairs.in_model_inputs(student)
            if not train_student(student, encoded, self.settings, rate, self.loss, self.seed, epoch_ended):
                continue
            # Rank 0 decides for all: ranks on different kinds of machines may differ in the last bits of what they compute, and
            # so in which recall is higher.
            recalls[rate] = ranks.broadcast(measure(student, validation, self.settings.encode_batch, ranks))
            if best is None or recalls[rate].mean > recalls[best[0]].mean:
                best = rate, student
        if best is None:
            tried = ", ".join(f"{rate:g}" for rate in rates)
            raise DivergenceError(
                f"students diverge at every learning rate ({tried}): add a lower one to evaluation.learning_rates"
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
    settings: EvaluationProtocol,
    learning_rate: float,
    loss: Loss,
    seed: int,
    epoch_ended: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> bool:
    """Train in place with SGD. Pairs that were learned in phases are used phase by phase, each for all epochs.

    Args:
        pairs: in model inputs, see `TrainingPairs.in_model_inputs`.
        epoch_ended: called with the number of epochs, of all phases, that are done, and of all.

    Returns:
        False if the loss became NaN or infinite.
    """
    ranks, shared = pairs.ranks, loss.own_shared(pairs.shared)
    rows = dict(pairs.rows)
    inputs, texts = rows.pop("images"), rows.pop("texts")
    own_phases = rows.pop(PHASE, None)
    phase = None if own_phases is None else torch.tensor(list(chain(*ranks.all_gather(own_phases.tolist()))))
    phases = phases_of(phase, pairs.total)
    replicas = Replicas(model, sgd(ParameterView(model).parameters, settings, learning_rate), ranks)

    def partial_loss(batch: Tensor) -> Tensor:
        """This rank's part of the loss of a batch of pair indices: 1/world_size of the loss of the whole batch."""
        parts = [batch[slice(*rows_to_compute(rank, ranks.world_size, len(batch)))] for rank in range(ranks.world_size)]
        exchange = Exchange(ranks, pairs.total, parts)
        model.gather_rows = gather_rows = ranks.rows_gatherer(len(batch))
        image_features, text_features = model(exchange.to_users(inputs), exchange.to_users(texts))
        loss_rows = {name: gather_rows(exchange.to_users(values)) for name, values in rows.items()}
        return loss(image_features, text_features, loss_rows, shared) / ranks.world_size

    def is_finite(loss: float) -> bool:
        """What rank 0 finds: on different kinds of machines, the last bits may decide whether a loss is finite."""
        return ranks.broadcast(math.isfinite(loss))

    done = 0

    def may_go_on(loss: float) -> bool:
        nonlocal done
        done += 1
        epoch_ended(done, settings.epochs * len(phases))
        return is_finite(loss)

    losses = train_epochs([model], partial_loss, replicas.step, phases, settings, seed, inputs.device, may_go_on)
    return is_finite(losses[-1])
