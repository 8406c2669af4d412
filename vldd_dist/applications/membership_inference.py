"""Membership inference: can an attacker tell from released pairs whether a real pair was among those they were made from?

The attacker has the released pairs, the frozen encoders, and other real pairs of the same kind. A real pair gets three scores:

- nearest: the largest cosine similarity of the pair (normalised image and text features, concatenated) to a released pair;
- loss: minus the contrastive loss of the pair, against the pairs of the validation split, under a student that is trained on
  the released pairs;
- likelihood ratio: the loss score minus its mean over reference students, which never saw the pair and are trained on the same
  number of random training pairs (Carlini et al. 2112.03570, offline and with one variance for all pairs; the reference
  students replace shadow distillations).

Other attacks may find more, and the result says nothing about differential privacy.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from vldd_dist.applications.base import Application, Figure
from vldd_dist.applications.feature_space.inputs import Inputs, one_caption_each
from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.feature_space.students import PairNumbers
from vldd_dist.applications.result import Result, ResultRows
from vldd_dist.config.base import Positive
from vldd_dist.coresets.random import RandomPairs
from vldd_dist.data.medoids import concatenated_features
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.method_names import DISTILLED
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed, numpy_generator

START, OTHERS = "members: the pairs that the set was initialised with", "members: the other training pairs"
# For a set of which only the images or only the texts started from real ones.
ALL = "members: all training pairs, with those that half of the set was initialised with"
FALSE_POSITIVES = 0.01
RANDOM = RandomPairs(name="random").label
# Pairs encoded and scored at a time: their scores against the validation pairs are a matrix.
CHUNK = 1024
ATTACKS = {"nearest": "nearest", "loss": "loss", "ratio": "likelihood ratio"}
# The temperature for a loss that has none.
TEMPERATURE = 0.07


class Pairs(NamedTuple):
    """Image features (n, F) and caption embeddings (n, D)."""

    images: Tensor
    texts: Tensor


class Reference(NamedTuple):
    """A reference student.

    Attributes:
        student: trained on m random training pairs.
        seen: (m,) int64, the images of these pairs.
    """

    student: DualEncoder
    seen: Tensor


class Released(NamedTuple):
    """A released set.

    Attributes:
        start: the training pairs that it started from; None if there are none, or if only images or only texts were real.
        others: the setting of the training pairs that are not among these.
    """

    method: str
    pairs: TrainingPairs
    start: PairNumbers | None
    others: str


class MembershipInference(Application):
    """Measures the success of three attacks on the distilled pairs, and on the same number of random real pairs."""

    title: ClassVar[str] = "membership inference"
    needs: ClassVar[frozenset[str]] = frozenset({"distilled"})
    figures: ClassVar[tuple[Figure, ...]] = (
        *(
            figure
            for key, head in ATTACKS.items()
            for figure in (
                # Not marked: an attack with an AUC of 0.4 separates as well as one with 0.6.
                Figure(f"auc_{key}", "AUC", decimals=2, group=head),
                Figure(f"tpr_{key}", "TPR, %", "lower", 1, head),
            )
        ),
        Figure("own", "nearest is its start, %", "lower"),
    )
    name: str = "membership_inference"
    references: Positive = Field(8, description="Number of reference students, for the likelihood ratio.")

    def notes(self) -> list[str]:
        return [
            "AUC: how well the score separates members from pairs of the test split. Guessing gives 0.5; below it, the score "
            "separates them with the opposite sign.",
            "TPR: share of the members that are found if at most 1 % of the test pairs (k of n) are taken for members. "
            "Guessing finds (k + 1)/(n + 1), which is above 1 % if there are few test pairs: 1.5 % for 200. A lower TPR is "
            "more private; the lowest is marked.",
            "Random: the same number of real training pairs, released unchanged. The other training pairs had no influence on "
            "them, so that row is a control.",
            "Nearest is its start: share of released pairs whose nearest training image is the one they started from.",
            f"Three attacks, with {self.references} reference students and no shadow distillation. Other attacks may find "
            "more; nothing is said about differential privacy.",
        ]

    def flops(self, planned: Planned) -> float:
        """For each seed the reference students are trained; then, for random and for distilled pairs, another student, and it
        and all references score each training and test pair."""
        scored, gallery, costs = planned.train + planned.test, planned.validation, planned.costs
        # The gallery is encoded with the training pairs, and again with the test pairs.
        heads = (scored + 2 * gallery) * (costs.encoding + costs.text_encoding)
        confidences = heads + 2 * 2 * scored * gallery * costs.joint_dim
        # The nearest released pair of each scored one, and the nearest training pair of each released one.
        nearest = 2 * planned.count * planned.pair_dim * (scored + planned.train)
        on_pairs = planned.on_pairs(planned.count, planned.validation)
        attack = on_pairs + (1 + self.references) * confidences + nearest
        return planned.seeds * (self.references * on_pairs + 2 * attack)

    def run(self, given: Inputs) -> list[Result]:
        rows = ResultRows()
        for position, seed in enumerate(given.seeds):
            references = [*self._references(given, seed)]
            for released in self._released(given, seed):
                for setting, figures in self._attack(given, seed, released, references):
                    rows.add(released.method, figures, setting=f"{setting}, {given.count} pairs")
            given.report(position + 1, len(given.seeds))
        return rows.results(without_set=(RANDOM,))

    def _released(self, given: Inputs, seed: int) -> Iterator[Released]:
        drawn = self._random(given, seed, "released")
        yield Released(RANDOM, given.pairs(drawn), drawn, OTHERS)
        distilled = given.distilled_pairs()
        yield Released(DISTILLED, distilled.pairs, distilled.start, ALL if distilled.half_real else OTHERS)

    @staticmethod
    def _random(given: Inputs, seed: int, *purpose: str | int) -> PairNumbers:
        generator = numpy_generator(seed, "membership", *purpose)
        images = generator.choice(len(given.train.inputs), min(given.count, len(given.train.inputs)), replace=False)
        return one_caption_each(given.train, generator, torch.from_numpy(images))

    def _references(self, given: Inputs, seed: int) -> Iterator[Reference]:
        for number in range(self.references):
            drawn = self._random(given, seed, "reference", number)
            students = given.students.with_seed(derive_seed(seed, "reference", number))
            yield Reference(students.on_pairs(given.pairs(drawn), given.validation).student, drawn.images)

    def _attack(
        self, given: Inputs, seed: int, released: Released, references: list[Reference]
    ) -> Iterator[tuple[str, dict[str, float]]]:
        """(setting, figures): for the training pairs that the released ones started from, if any, and for the other ones."""
        start, rows = released.start, released.pairs.rows
        generator = numpy_generator(seed, "membership", "captions")
        members = one_caption_each(given.train, generator)
        if start is not None:
            members.captions[start.images] = start.captions
        # The pairs to score: all training pairs, and the test pairs as non-members.
        scored = [_pairs(given.train, members), _pairs(given.test, one_caption_each(given.test, generator))]
        gallery = _pairs(given.validation, one_caption_each(given.validation, generator))
        student = given.students.with_seed(seed).on_pairs(released.pairs, given.validation).student
        temperature = given.students.model.loss.first_temperature() or TEMPERATURE
        confidences = [confidence(student, pairs, gallery, temperature) for pairs in scored]
        expected = self._expected(references, scored, gallery, temperature)
        released_features = concatenated_features(rows["images"].cpu(), rows["texts"].cpu())
        scores = {
            "nearest": [(concatenated_features(*pairs) @ released_features.T).amax(dim=1) for pairs in scored],
            "loss": confidences,
            "ratio": [value - mean for value, mean in zip(confidences, expected, strict=True)],
        }
        is_start = torch.zeros(len(members.images), dtype=torch.bool)
        if start is not None:
            is_start[start.images] = True
            nearest = (released_features @ concatenated_features(*scored[0]).T).argmax(dim=1)
            own = {"own": 100 * float((nearest == start.images).double().mean())}
            yield START, self._figures(scores, is_start) | own
        if not is_start.all():
            yield released.others, self._figures(scores, ~is_start)

    @staticmethod
    def _figures(scores: dict[str, list[Tensor]], selected: Tensor) -> dict[str, float]:
        """The figures of each attack for the selected training pairs, (N,) bool, as members."""
        figures: dict[str, float] = {}
        for key, (members, others) in scores.items():
            auc, tpr = success(members[selected].numpy(), others.numpy())
            figures |= {f"auc_{key}": auc, f"tpr_{key}": 100 * tpr}
        return figures

    @staticmethod
    def _expected(references: list[Reference], scored: list[Pairs], gallery: Pairs, temperature: float) -> list[Tensor]:
        """For each training pair and each test pair, the mean confidence of the reference students that never saw its image;
        for a training image that all have seen, of all of them."""
        training, test = (
            torch.stack([confidence(reference.student, pairs, gallery, temperature) for reference in references])
            for pairs in scored
        )
        unseen = torch.ones(len(references), len(scored[0].images), dtype=torch.bool)
        for number, reference in enumerate(references):
            unseen[number, reference.seen] = False
        unseen[:, ~unseen.any(dim=0)] = True
        return [(training * unseen).sum(dim=0) / unseen.sum(dim=0), test.mean(dim=0)]


def _pairs(split: RetrievalSplit, numbers: PairNumbers) -> Pairs:
    return Pairs(split.inputs[numbers.images], split.texts[numbers.captions])


@torch.no_grad()
def confidence(student: DualEncoder, pairs: Pairs, gallery: Pairs, temperature: float) -> Tensor:
    """(n,) minus the contrastive loss, in both directions, of each pair by itself against the pairs of the gallery."""
    student.eval()
    others = _joint(student, gallery, temperature)
    chunks = map(Pairs, pairs.images.split(CHUNK), pairs.texts.split(CHUNK))
    return torch.cat([_confidence(*_joint(student, chunk, temperature), *others).cpu() for chunk in chunks])


def _joint(student: DualEncoder, pairs: Pairs, temperature: float) -> tuple[Tensor, Tensor]:
    """Image features divided by the temperature, and text features, (n, d) each in the joint space."""
    device = student.mean.device
    v = functional.normalize(student.image_features(pairs.images.to(device))) / temperature
    return v, functional.normalize(student.text_features(pairs.texts.to(device)))


def _confidence(v: Tensor, t: Tensor, others_v: Tensor, others_t: Tensor) -> Tensor:
    """`confidence` (n,) of pairs v and t (n, d) against a gallery (G, d), all in the joint space; v is divided by the
    temperature."""
    own = (v * t).sum(dim=1, keepdim=True)
    to_texts, to_images = torch.cat([own, v @ others_t.T], dim=1), torch.cat([own, t @ others_v.T], dim=1)
    return 2 * own[:, 0] - to_texts.logsumexp(dim=1) - to_images.logsumexp(dim=1)


def success(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """The area under the ROC curve of scores that should be larger for members, and the share of members found when at most
    `FALSE_POSITIVES` of the others are taken for members."""
    # Imported here so that descriptions can be read without scikit-learn.
    from sklearn.metrics import roc_auc_score, roc_curve

    is_member = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    scores = np.concatenate([members, others])
    # By default a point between two others on a line is dropped, also the last one with few enough of the others.
    false, true, _ = roc_curve(is_member, scores, drop_intermediate=False)
    return float(roc_auc_score(is_member, scores)), float(true[false <= FALSE_POSITIVES].max())
