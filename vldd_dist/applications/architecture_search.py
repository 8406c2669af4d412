"""Architecture search: rank candidates by training them on few pairs instead of all (Zhao et al. 2006.05929, section 4).

A candidate is a pair of heads on the frozen backbone and text encoder, and the size of their joint space.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from vldd_dist.applications.base import BASELINES, FULL_DATA, Application, Baselines, Figure
from vldd_dist.applications.feature_space.inputs import Inputs, select
from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.feature_space.students import Students, Trained
from vldd_dist.applications.result import Result
from vldd_dist.config.base import Distinct, Positive
from vldd_dist.config.sections.model import HeadSettings, ModelSettings
from vldd_dist.errors import DivergenceError
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.method_names import DISTILLED
from vldd_dist.seeding import numpy_generator

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment

HEADS = (
    HeadSettings(kind="linear"),
    HeadSettings(kind="projection", dropout=0.0),
    HeadSettings(kind="projection", dropout=0.3),
)


OTHER_SEED = f"{FULL_DATA}, another seed"
Train = Callable[[Students], Trained]


class Ranking(NamedTuple):
    """How one way of training scores the candidates.

    Attributes:
        validation: mean validation recall of each candidate, in percent; 0 if its training diverges.
        test: the same on the test split; empty if it was not asked for.
        seconds: CPU time of training and validating all candidates.
    """

    validation: list[float]
    test: list[float]
    seconds: float

    @property
    def first(self) -> int:
        """Index of the candidate ranked first."""
        return max(range(len(self.validation)), key=self.validation.__getitem__)


class ArchitectureSearch(Application):
    """Measures how well students trained on few pairs rank architectures: Kendall's tau with the ranking by all training
    pairs, and the recall lost by the candidate ranked first."""

    title: ClassVar[str] = "architecture search"
    needs: ClassVar[frozenset[str]] = frozenset({"distilled"})
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("tau", "Kendall's tau", "higher", 2),
        Figure("choice", "recall of its choice", "higher"),
        Figure("regret", "regret", "lower"),
        Figure("seconds", "CPU s", "lower"),
        Figure("saved", "time saved, %", "higher"),
    )
    name: str = "architecture_search"
    candidates: Positive = Field(
        36, description="Number of architectures, drawn from all combinations of heads and joint_dims."
    )
    joint_dims: Distinct[Positive] = Field([16, 64, 256, 1024], description="Sizes of the joint space.")
    epochs: Positive = Field(6, description="Epochs of training on all pairs; the epoch that validates best counts.")
    stopped_after: Positive = Field(1, description="Epochs of the baseline that stops training on all pairs early.")
    baselines: Baselines = Field(["random", "k_center"], validate_default=True, description=BASELINES)

    def conflicts(self, experiment: "Experiment") -> list[str]:
        if self.candidates > (most := len(HEADS) ** 2 * len(self.joint_dims)):
            return [
                f"applications: architecture_search: candidates ({self.candidates}) is more than the {most} that there are: "
                "lower it, or name more joint_dims"
            ]
        return []

    def notes(self) -> list[str]:
        return [
            f"{self.candidates} heads and sizes of the joint space on a frozen backbone, ranked by validation recall of "
            f"students trained on each row's pairs; full data: {self.epochs} epochs over all training pairs.",
            "Tau is the rank correlation with full data, 1 for equal orders; full data, another seed, shows how well two "
            "rankings by the same data agree.",
            "Recall of its choice: test recall of the candidate it ranks first, trained on full data. Regret: how much lower "
            "that is than the recall of full data's own choice; it can be negative.",
            "CPU s: time to train and validate all candidates, without the time to make the pairs.",
        ]

    def models(self, given: ModelSettings, seed: int) -> list[ModelSettings]:
        """The candidates, which differ from the given model only in their heads and the size of the joint space."""
        combinations = [*itertools.product(HEADS, HEADS, self.joint_dims)]
        drawn = numpy_generator(seed, "architectures").permutation(len(combinations))[: self.candidates]
        return [_with_heads(given, *combinations[number]) for number in sorted(drawn.tolist())]

    def flops(self, planned: Planned) -> float:
        """Each candidate is trained on all pairs three times, once of these for `stopped_after` epochs, and for each seed on
        the pairs of each baseline and on the distilled ones."""
        of_candidates = 0.0
        for model in self.models(planned.model, planned.seed):
            candidate = planned.with_model(model)
            for epochs in (self.epochs, self.epochs, self.stopped_after):
                of_candidates += candidate.on_split(planned.train, epochs, planned.validation)
            on_pairs = candidate.on_pairs(planned.count, planned.validation)
            of_candidates += planned.seeds * (len(self.baselines) + 1) * on_pairs + candidate.measuring(planned.test)
        return of_candidates

    def run(self, given: Inputs) -> list[Result]:
        rankings = [*self._rankings(given)]
        _, truth = rankings[0]
        rankings_by_method: dict[str, list[Ranking]] = {}
        for method, ranking in rankings:
            rankings_by_method.setdefault(method, []).append(ranking)
        return [
            Result(
                method=method,
                setting=f"{given.count} pairs",
                bound=method in (FULL_DATA, OTHER_SEED),
                of_set=method == DISTILLED,
                figures={
                    "tau": [kendall_tau(truth.validation, ranking.validation) for ranking in of_method],
                    "choice": [truth.test[ranking.first] for ranking in of_method],
                    "regret": [truth.test[truth.first] - truth.test[ranking.first] for ranking in of_method],
                    "seconds": [ranking.seconds for ranking in of_method],
                    "saved": [100 * (1 - ranking.seconds / truth.seconds) for ranking in of_method],
                },
            )
            for method, of_method in rankings_by_method.items()
        ]

    def _rankings(self, given: Inputs) -> Iterator[tuple[str, Ranking]]:
        """(method, ranking) for each way of training; the one of full data first."""
        # No other ranking has the reference's seed: equal starting weights would raise its agreement with the reference.
        reference = max(given.seeds) + 1
        rank = Ranker(given, self.candidates * (3 + len(given.seeds) * (1 + len(self.baselines)))).rank

        def on_all(epochs: int) -> Train:
            return lambda students: students.on_split(given.train, given.validation, epochs)

        def on_pairs(pairs: TrainingPairs) -> Train:
            return lambda students: students.on_pairs(pairs, given.validation)

        models = self.models(given.students.model, given.seed)
        yield FULL_DATA, rank(models, reference, on_all(self.epochs), test=True)
        yield OTHER_SEED, rank(models, reference + 1, on_all(self.epochs))
        stopped_early = f"{FULL_DATA}, {self.stopped_after} of {self.epochs} epochs"
        yield stopped_early, rank(models, reference + 1, on_all(self.stopped_after))
        for seed in given.seeds:
            for method in self.baselines:
                generator = numpy_generator(seed, "baseline", method.name, given.count)
                pairs = given.pairs(select(method, given.train, given.count, generator))
                yield method.label, rank(models, seed, on_pairs(pairs))
            yield DISTILLED, rank(models, seed, on_pairs(given.distilled_pairs().pairs))


class Ranker:
    """Ranks candidates, and reports how many trainings are done of the `total` that the search takes."""

    def __init__(self, given: Inputs, total: int) -> None:
        self.given, self.done, self.total = given, 0, total

    def rank(self, models: list[ModelSettings], seed: int, train: Train, *, test: bool = False) -> Ranking:
        """Train each candidate with this seed by `train`; if `test`, also measure it on the test split."""
        given, started = self.given, time.process_time()
        validation, test_recalls, test_seconds = [], [], 0.0
        for model in models:
            students = given.students.with_model(model).with_seed(seed)
            try:
                trained = train(students)
            except DivergenceError:
                # It counts as the worst candidate; the search goes on.
                trained = None
            validation.append(trained.validation if trained else 0.0)
            if test:
                before = time.process_time()
                test_recalls.append(students.recall(trained.student, given.test) if trained else 0.0)
                test_seconds += time.process_time() - before
            self.done += 1
            given.report(self.done, self.total)
        return Ranking(validation, test_recalls, time.process_time() - started - test_seconds)


def _with_heads(model: ModelSettings, image: HeadSettings, text: HeadSettings, joint_dim: int) -> ModelSettings:
    towers = {
        name: getattr(model, name).model_copy(update={"head": head, "train": "head"})
        for name, head in (("image", image), ("text", text))
    }
    return model.model_copy(update=towers | {"joint_dim": joint_dim})


def kendall_tau(a: list[float], b: list[float]) -> float:
    """Kendall's tau-b of two lists of scores; 0 if all scores of a list are equal, because then it has no order."""
    # Imported here so that descriptions can be read without scipy.
    from scipy.stats import kendalltau

    if len(set(a)) == 1 or len(set(b)) == 1:
        return 0.0
    return float(kendalltau(a, b).statistic)
