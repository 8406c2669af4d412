"""Membership inference: what released pairs tell of the real pairs that they were made from.

The attacker has the released pairs, the frozen towers, and other pairs like those it asks about. Three scores of a real pair:

- nearest: its largest cosine similarity to a released pair, image and text features of norm one side by side;
- loss: minus its contrastive loss, against the pairs of the validation split, by a student trained on the released pairs;
- likelihood ratio: the same, less its mean over students that never saw the pair, trained on as many random training pairs
  (Carlini et al. 2112.03570, offline and with one variance for all pairs; reference students stand for shadow distillations).

It bounds no other attacker's success, and says nothing of differential privacy.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vldd_dist.applications.base import DISTILLED, Application, Figure
from vldd_dist.applications.inputs import Inputs, one_caption_each
from vldd_dist.applications.result import Result
from vldd_dist.applications.students import PairNumbers
from vldd_dist.config.base import Positive
from vldd_dist.coresets.random import RandomPairs
from vldd_dist.data.medoids import joint_features
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed, numpy_generator

START, OTHERS = "members: the pairs it begins as", "members: the other training pairs"
FALSE_POSITIVES = 0.01
ATTACKS = {"nearest": "nearest", "loss": "loss", "ratio": "likelihood ratio"}
# Of a loss that divides similarities by nothing.
TEMPERATURE = 0.07


class Pairs(NamedTuple):
    """Features (n, F) and embeddings (n, D)."""

    images: Tensor
    texts: Tensor


class Reference(NamedTuple):
    """Attributes:
    student: trained on random pairs.
    seen: (m,) int64, their images.
    """

    student: DualEncoder
    seen: Tensor


class MembershipInference(Application):
    """Success of three attacks on the distilled pairs and on as many random real pairs."""

    title: ClassVar[str] = "membership inference"
    needs: ClassVar[frozenset[str]] = frozenset({"distilled"})
    figures: ClassVar[tuple[Figure, ...]] = (
        *(
            figure
            for key, head in ATTACKS.items()
            for figure in (Figure(f"auc_{key}", "AUC", "lower", 2, head), Figure(f"tpr_{key}", "TPR, %", "lower", 1, head))
        ),
        Figure("own", "nearest is its start, %", "lower"),
    )
    name: str = "membership_inference"
    references: Positive = Field(8, description="Students on random pairs, for the likelihood ratio.")

    def notes(self) -> list[str]:
        return [
            "AUC: of telling members from the test split's pairs, 0.5 for guessing; TPR: members found where 1 % of the others "
            "are taken for members, 1 % for guessing. The lower, marked, is the more private.",
            "Random: as many real training pairs, released as they are. The other training pairs left no trace in it: that row "
            "is a control.",
            "Nearest is its start: released pairs whose nearest training image is the one they began as.",
            f"Three attackers, {self.references} reference students and no shadow distillation: no bound on others, and no "
            "differential privacy.",
        ]

    def run(self, given: Inputs) -> list[Result]:
        found: dict[tuple[str, str], dict[str, list[float]]] = {}
        for position, seed in enumerate(given.seeds):
            references = [*self._references(given, seed)]
            for method, pairs, start in self._released(given, seed):
                for setting, figures in self._attack(given, seed, pairs, start, references):
                    row = found.setdefault((setting, method), {})
                    for key, value in figures.items():
                        row.setdefault(key, []).append(value)
            given.report(position + 1, len(given.seeds))
        return [
            Result(method=method, setting=setting, figures=figures)
            for setting in (START, OTHERS)
            for (of, method), figures in found.items()
            if of == setting
        ]

    def _released(self, given: Inputs, seed: int) -> Iterator[tuple[str, TrainingPairs, PairNumbers | None]]:
        """(method, released pairs, the training pairs they began as)."""
        drawn = self._random(given, seed, "released")
        yield RandomPairs(name="random").label, given.pairs(drawn), drawn
        distilled = given.distilled_pairs()
        yield DISTILLED, distilled.pairs, distilled.start

    @staticmethod
    def _random(given: Inputs, seed: int, *purpose: str | int) -> PairNumbers:
        generator = numpy_generator(seed, "membership", *purpose)
        images = generator.choice(len(given.train.inputs), min(given.count, len(given.train.inputs)), replace=False)
        return one_caption_each(given.train, torch.from_numpy(images), generator)

    def _references(self, given: Inputs, seed: int) -> Iterator[Reference]:
        for number in range(self.references):
            drawn = self._random(given, seed, "reference", number)
            students = given.students.with_seed(derive_seed(seed, "reference", number))
            yield Reference(students.on_pairs(given.pairs(drawn), given.validation).student, drawn.images)

    def _attack(
        self, given: Inputs, seed: int, released: TrainingPairs, start: PairNumbers | None, references: list[Reference]
    ) -> Iterator[tuple[str, dict[str, float]]]:
        generator = numpy_generator(seed, "membership", "captions")
        members = one_caption_each(given.train, torch.arange(len(given.train.inputs)), generator)
        if start is not None:
            members.captions[start.images] = start.captions
        asked = [_pairs(given.train, members), _pairs(given.test, _all_images(given.test, generator))]
        gallery = _pairs(given.validation, _all_images(given.validation, generator))
        student = given.students.with_seed(seed).on_pairs(released, given.validation).student
        temperature = given.students.model.loss.first_temperature() or TEMPERATURE
        confidences = [confidence(student, pairs, gallery, temperature) for pairs in asked]
        expected = self._expected(references, asked, gallery, temperature)
        theirs = joint_features(released.rows["images"].cpu(), released.rows["texts"].cpu())
        scores = {
            "nearest": [(joint_features(*pairs) @ theirs.T).amax(dim=1) for pairs in asked],
            "loss": confidences,
            "ratio": [own - mean for own, mean in zip(confidences, expected, strict=True)],
        }
        began = torch.zeros(len(members.images), dtype=torch.bool)
        if start is not None:
            began[start.images] = True
            nearest = (theirs @ joint_features(*asked[0]).T).argmax(dim=1)
            own = {"own": 100 * float((nearest == start.images).double().mean())}
            yield START, self._figures(scores, began) | own
        if not began.all():
            yield OTHERS, self._figures(scores, ~began)

    @staticmethod
    def _figures(scores: dict[str, list[Tensor]], asked: Tensor) -> dict[str, float]:
        figures: dict[str, float] = {}
        for key, (members, others) in scores.items():
            auc, tpr = success(members[asked].numpy(), others.numpy())
            figures |= {f"auc_{key}": auc, f"tpr_{key}": 100 * tpr}
        return figures

    @staticmethod
    def _expected(references: list[Reference], asked: list[Pairs], gallery: Pairs, temperature: float) -> list[Tensor]:
        """Of training and of test pairs the mean confidence of students that never saw the pair's image; of a training image
        that all have seen, of all of them."""
        found = [torch.stack([confidence(one.student, pairs, gallery, temperature) for one in references]) for pairs in asked]
        unseen = torch.ones(len(references), len(asked[0].images), dtype=torch.bool)
        for number, one in enumerate(references):
            unseen[number, one.seen] = False
        unseen[:, ~unseen.any(dim=0)] = True
        of_members = (found[0] * unseen).sum(dim=0) / unseen.sum(dim=0)
        return [of_members, found[1].mean(dim=0)]


def _all_images(split: RetrievalSplit, generator: np.random.Generator) -> PairNumbers:
    return one_caption_each(split, torch.arange(len(split.inputs)), generator)


def _pairs(split: RetrievalSplit, numbers: PairNumbers) -> Pairs:
    return Pairs(split.inputs[numbers.images], split.texts[numbers.captions])


@torch.no_grad()
def confidence(student: DualEncoder, pairs: Pairs, gallery: Pairs, temperature: float) -> Tensor:
    """(n,) minus the contrastive loss, both ways, of each pair alone against the gallery's pairs."""
    device = student.mean.device
    student.eval()
    (v, t), (others_v, others_t) = (
        (
            functional.normalize(student.image_features(of.images.to(device))) / temperature,
            functional.normalize(student.text_features(of.texts.to(device))),
        )
        for of in (pairs, gallery)
    )
    own = (v * t).sum(dim=1, keepdim=True)
    to_texts, to_images = torch.cat([own, v @ others_t.T], dim=1), torch.cat([own, t @ others_v.T], dim=1)
    return (2 * own[:, 0] - to_texts.logsumexp(dim=1) - to_images.logsumexp(dim=1)).cpu()


def success(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve of scores that are to be larger for members, and the share of members found where at most
    `FALSE_POSITIVES` of the others are taken for members."""
    # Here, so that a description is read without scikit-learn.
    from sklearn.metrics import roc_auc_score, roc_curve

    is_member = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    scores = np.concatenate([members, others])
    false, true, _ = roc_curve(is_member, scores)
    return float(roc_auc_score(is_member, scores)), float(true[false <= FALSE_POSITIVES].max())
