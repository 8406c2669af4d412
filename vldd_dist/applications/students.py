"""Students on features of a frozen image tower: heads, trained on pairs by the evaluation's protocol or on a whole split."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vldd_dist.config.sections.evaluation import EvaluationSettings
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.errors import DivergenceError
from vldd_dist.evaluation.evaluator import Evaluator, TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import ParameterView
from vldd_dist.retrieval.encode import RetrievalSplit, measure
from vldd_dist.seeding import derive_seed, numpy_generator


class FeatureBackbone(nn.Module):
    """A backbone whose inputs are features (B, F) already.

    Attributes:
        num_features: F, as timm names it.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, F)."""
        return features


class PairNumbers(NamedTuple):
    """Real pairs of a split.

    Attributes:
        images, captions: (n,) int64, rows of the split's `inputs` and `texts`; caption i is of image i.
    """

    images: Tensor
    captions: Tensor


def on_device(rows: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same rows there."""
    return {name: tensor.to(device) for name, tensor in rows.items()}


def first_captions(split: RetrievalSplit) -> Tensor:
    """(N + 1,) int64: the row of each image's first caption, and C."""
    return torch.searchsorted(split.image_of_caption, torch.arange(len(split.inputs) + 1))


@dataclass(frozen=True)
class Trained:
    """Attributes:
    student: the one that validates best.
    validation: its mean recall, percent.
    """

    student: DualEncoder
    validation: float


@dataclass(frozen=True)
class Students:
    """How they are made, trained and chosen.

    Attributes:
        model: its image tower is frozen.
        image_dim, text_dim: F and D.
        protocol: of training on pairs; of training on a split its optimiser, batch size and list of rates.
        seed: of heads, order and dropout.
    """

    model: ModelSettings
    image_dim: int
    text_dim: int
    protocol: EvaluationSettings
    device: torch.device
    seed: int = 0

    def with_seed(self, seed: int) -> "Students":
        return replace(self, seed=seed)

    def with_model(self, model: ModelSettings) -> "Students":
        return replace(self, model=model)

    def build(self) -> DualEncoder:
        """At its starting weights, which the seed draws."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "head"))
            model = DualEncoder(FeatureBackbone(self.image_dim), self.model, self.text_dim)
        return model.to(self.device).eval()

    def pairs(self, split: RetrievalSplit, numbers: PairNumbers) -> TrainingPairs:
        """Real pairs of a split."""
        rows = {"images": split.inputs[numbers.images], "texts": split.texts[numbers.captions]}
        return TrainingPairs(on_device(rows, self.device), len(numbers.images))

    def on_pairs(self, pairs: TrainingPairs, validation: RetrievalSplit) -> Trained:
        """Trained as an evaluation's students are.

        Raises:
            DivergenceError: at every learning rate.
        """
        choice = Evaluator(self.build, self.protocol, self.model.loss, self.seed).choose(pairs, validation)
        return Trained(choice.student, choice.recall.mean)

    def on_split(self, train: RetrievalSplit, validation: RetrievalSplit, epochs: int) -> Trained:
        """Trained on all pairs of a split; of all rates and epochs the best.

        Raises:
            DivergenceError: at every learning rate before the end of the first epoch.
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

    def epochs_on_split(self, student: DualEncoder, train: RetrievalSplit, rate: float, epochs: int) -> Iterator[int]:
        """Train in place on every image once an epoch, with one of its captions drawn anew; yields after each epoch, and ends
        early where the loss is no longer finite."""
        protocol, loss = self.protocol, self.model.loss.of_real_pairs()
        parameters = ParameterView(student).parameters
        optimiser = torch.optim.SGD(parameters, lr=rate, momentum=protocol.momentum, weight_decay=protocol.weight_decay)
        first = first_captions(train)
        for epoch in range(epochs):
            generator = numpy_generator(self.seed, "all pairs", epoch)
            captions = first[:-1] + torch.from_numpy(generator.integers(first.diff().numpy()))
            student.train()
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(derive_seed(self.seed, "all pairs", "dropout", epoch))
                for chosen in torch.from_numpy(generator.permutation(len(captions))).split(protocol.batch_size):
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
        """The mean of the six, percent."""
        return measure(student, split, self.protocol.encode_batch).mean
