"""Students on the features of a frozen image backbone. Only their heads are trained, on pairs (by the evaluation's protocol) or
on a whole split."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.errors import DivergenceError
from vldd_dist.evaluation.evaluator import Evaluator, TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.feature_backbone import FeatureBackbone
from vldd_dist.models.inputs import on_device
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, measure
from vldd_dist.seeding import derive_seed, numpy_generator, seeded
from vldd_dist.training_loop import even_batches, sgd


class PairNumbers(NamedTuple):
    """Real pairs of a split, by number.

    Attributes:
        images, captions: (n,) int64, row numbers in the split's `inputs` and `texts`; entry i of both is pair i.
    """

    images: Tensor
    captions: Tensor


def first_captions(split: RetrievalSplit) -> Tensor:
    """(N + 1,) int64: for each image the row of its first caption, then the number C of captions."""
    return torch.searchsorted(split.image_of_caption, torch.arange(len(split.inputs) + 1))


@dataclass(frozen=True)
class Trained:
    """A trained student.

    Attributes:
        student: the one that validates best, of those trained with each learning rate.
        validation: its mean validation recall, in percent.
    """

    student: DualEncoder
    validation: float


@dataclass(frozen=True)
class Students:
    """How students are made, trained and chosen.

    Attributes:
        model: the model's settings; its image backbone is frozen.
        image_dim, text_dim: F and D.
        protocol: the protocol for training on pairs; training on a split uses its optimiser, batch size and learning rates.
        seed: seed of the heads, the order of the pairs and dropout.
    """

    model: ModelSettings
    image_dim: int
    text_dim: int
    protocol: EvaluationProtocol
    device: torch.device
    seed: int = 0

    def with_seed(self, seed: int) -> "Students":
        return replace(self, seed=seed)

    def with_model(self, model: ModelSettings) -> "Students":
        return replace(self, model=model)

    def build(self) -> DualEncoder:
        """A student at its starting weights, which are drawn from the seed."""
        with seeded(derive_seed(self.seed, "head")):
            model = DualEncoder(FeatureBackbone(self.image_dim), self.model, self.text_dim)
        return model.to(self.device).eval()

    def pairs(self, split: RetrievalSplit, numbers: PairNumbers) -> TrainingPairs:
        """The real pairs of a split with these numbers, as training pairs."""
        rows = {"images": split.inputs[numbers.images], "texts": split.texts[numbers.captions]}
        return TrainingPairs(on_device(rows, self.device), len(numbers.images))

    def on_pairs(self, pairs: TrainingPairs, validation: RetrievalSplit) -> Trained:
        """Train on pairs, by the evaluation's protocol.

        Raises:
            DivergenceError: training diverges at every learning rate.
        """
        choice = Evaluator(self.build, self.protocol, self.model.loss, self.seed).choose(pairs, validation)
        return Trained(choice.student, choice.recall.mean)

    def on_split(self, train: RetrievalSplit, validation: RetrievalSplit, epochs: int) -> Trained:
        """Train on all pairs of a split; the best student over all learning rates and epochs is kept.

        Raises:
            DivergenceError: at every learning rate training diverges in the first epoch.
        """
        best: Trained | None = None
        for rate in self.protocol.learning_rates:
            student = self.build()
            for _ in self.epochs_on_split(student, train, rate, epochs):
                recall = measure(student, validation, self.protocol.encode_batch).mean
                if best is None or recall > best.validation:
                    best = Trained(copy.deepcopy(student), recall)
        if best is None:
            raise DivergenceError("students diverge on all training pairs: add a lower rate to evaluation.learning_rates")
        return best

    def train_on_split(self, student: DualEncoder, train: RetrievalSplit, rate: float, epochs: int) -> bool:
        """`epochs_on_split` to its end. Returns whether the loss was finite in all epochs."""
        return sum(1 for _ in self.epochs_on_split(student, train, rate, epochs)) == epochs

    def epochs_on_split(self, student: DualEncoder, train: RetrievalSplit, rate: float, epochs: int) -> Iterator[int]:
        """Train in place. Each epoch takes every image once, with one of its captions drawn at random. Yields after each epoch,
        and ends early when the loss is not finite."""
        protocol, loss = self.protocol, self.model.loss.of_real_pairs()
        optimiser = sgd(ParameterView(student).parameters, protocol, rate)
        first = first_captions(train)
        for epoch in range(epochs):
            generator = numpy_generator(self.seed, "all pairs", epoch)
            captions = first[:-1] + torch.from_numpy(generator.integers(first.diff().numpy()))
            student.train()
            with seeded(derive_seed(self.seed, "all pairs", "dropout", epoch), self.device):
                for chosen in even_batches(torch.from_numpy(generator.permutation(len(captions))), protocol.batch_size):
                    batch = train.inputs[chosen].to(self.device), train.texts[captions[chosen]].to(self.device)
                    value = loss(*student(*batch))
                    optimiser.zero_grad()
                    value.backward()
                    optimiser.step()
            student.eval()
            if not math.isfinite(value.item()):
                return
            yield epoch

    def recall(self, student: DualEncoder, split: RetrievalSplit) -> float:
        """The mean of the six recalls, in percent."""
        return measure(student, split, self.protocol.encode_batch).mean
