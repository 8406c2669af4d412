"""Distils a part of the training pairs inside an application, with an objective that needs no expert. Image features of the
frozen backbone and text embeddings are learned, not images (docs/decisions.md)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from vldd_dist.applications.feature_space.planned import Planned
from vldd_dist.applications.feature_space.students import PairNumbers, Students, first_captions
from vldd_dist.config.base import AnyPlugin, Positive, Rate, Section, choose, plugin_of
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.coresets.random import RandomPairs
from vldd_dist.data.prepared.in_memory import in_memory
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.distillation.initialisations.base import Initialisation, Start
from vldd_dist.distillation.objectives import Objective
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.evaluation.evaluator import TrainingPairs
from vldd_dist.models.losses import Loss
from vldd_dist.plugins import OBJECTIVES
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.seeding import derive_seed

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment


# The pairs of a part start from random real pairs.
START = RandomPairs(name="random")


def _takes_no_experts(objective: Objective) -> Objective:
    if "experts" in objective.needed():
        other = "name bilevel with teacher_weight: 0, or covariance_matching"
        hint = "set its teacher_weight to 0" if objective.name == "bilevel" else other
        raise ValueError(f"{objective.name} needs experts, which a part of the data has none of: {hint}")
    return objective


class PartDistillation(Section):
    """Settings of the outer loop for a part of the data. The students are those of the application."""

    objective: Annotated[AnyPlugin, plugin_of(OBJECTIVES), AfterValidator(_takes_no_experts)] = Field(
        default_factory=lambda: choose(OBJECTIVES, {"name": "bilevel", "teacher_weight": 0}),
        description="An objective that needs no expert.",
    )
    outer_steps: Positive = Field(100, description="Outer steps for each part of the data.")
    validate_every: Positive = Field(25, description="Outer steps between validations; the best validated pairs are used.")
    lr: Rate = Field(0.05, description="Outer learning rate of texts, and of features in units of their standard deviation.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.95, description="Decay of the running average of the pairs; 0: none.")

    def conflicts(self, experiment: "Experiment") -> list[str]:
        """Which settings do not work with others of the experiment, one sentence each."""
        loss: Loss = experiment.model.loss
        if learned := loss.learned_names():
            return [f"applications.run: each part's pairs would learn a {learned[0]} of their own: let model.loss learn none"]
        part = {"objective": self.objective, "workers": 1, "sharding": "none", "batch_size": experiment.evaluation.batch_size}
        distill = experiment.distill.model_copy(update=part)
        found: list[str] = self.objective.conflicts(experiment.model_copy(update={"distill": distill}))
        return [f"applications.run, the distillation of a part: {conflict}" for conflict in found]

    def run(
        self,
        students: Students,
        train: RetrievalSplit,
        validation: RetrievalSplit,
        start: PairNumbers,
    ) -> TrainingPairs:
        """Learn pairs from one split; their `images` are features.

        Args:
            start: the pairs of `train` to start from.
        """
        initialise = _Chosen(images=start.images.tolist(), captions=start.captions.tolist())
        return self.run_from(students, train, validation, initialise, len(start.images))

    def run_from(
        self,
        students: Students,
        train: RetrievalSplit,
        validation: RetrievalSplit,
        initialise: Initialisation,
        count: int,
    ) -> TrainingPairs:
        """`run` with an initialisation on features of this number of pairs."""
        lr_images = self.lr * float(train.inputs.std(dim=0).mean())
        settings = self._settings(lr_images, students.protocol.batch_size).model_copy(update={"initialise": initialise})
        embeddings, features = in_memory(train.inputs, train.texts, first_captions(train))
        model = students.with_seed(derive_seed(students.seed, "distilled part")).build()
        context = DistillationContext(
            settings=settings,
            total=count,
            seed=students.seed,
            model=model,
            loss=students.model.loss,
            embeddings=embeddings,
            image_features=features,
            report=lambda event: None,
        )
        # Not the seed of the students that are trained on the result: the pairs would be chosen for their starting weights.
        validating = students.with_seed(derive_seed(students.seed, "validation"))
        pairs, _ = distill_in_memory(context, *starting_pairs(context), validating, validation)
        return pairs

    def flops(self, planned: Planned, pairs: int, validation: float) -> float | None:
        """Floating-point operations of distilling a part, for a plan: all outer steps, and the validations on this many images.
        None if the objective does not count the operations of its steps."""
        settings = self._settings(self.lr, planned.protocol.batch_size)
        step = self.objective.costs().step_flops(planned.costs, settings, pairs)
        if step is None:
            return None
        return self.outer_steps * step + settings.validations() * planned.on_pairs(pairs, validation)

    def _settings(self, lr_images: float, batch_size: int) -> DistillationSettings:
        """The settings of the outer loop, without the initialisation.

        Args:
            batch_size: that of the evaluation, for whose students the pairs are made.
        """
        return DistillationSettings(
            batch_size=batch_size,
            objective=self.objective,
            outer_steps=self.outer_steps,
            validate_every=self.validate_every,
            lr_images=lr_images,
            lr_texts=self.lr,
            ema=self.ema,
        )


def distill_in_memory(
    context: DistillationContext,
    pairs: SyntheticPairs,
    rates: Mapping[str, float],
    students: Students,
    validation: RetrievalSplit,
) -> tuple[TrainingPairs, float]:
    """Run the outer loop of a distillation that is not a unit. It has no checkpoints, because it takes only minutes.

    Args:
        context: has the objective in its settings, and a model on features.
        pairs, rates: as of `starting_pairs`; the pairs' `images` are features.
        students: trained on the pairs at each validation.
        validation: the split that these students are measured on.

    Returns:
        The pairs that validate best, and their mean validation recall, in percent.
    """

    def validate(learned: SyntheticPairs) -> float:
        return students.on_pairs(_training_pairs(learned), validation).validation

    with context.settings.objective.open(context) as problem:
        distillation = Distillation(problem, pairs, rates, context, validate=validate, writer=None)
        facts = distillation.run()
    return _training_pairs(distillation.best), facts.best_validation


def _training_pairs(learned: SyntheticPairs) -> TrainingPairs:
    return TrainingPairs(learned.rows, len(learned), shared=learned.shared)


class _Chosen(Initialisation):
    """Features and embeddings of these images and captions of the part."""

    name: str = "chosen"
    images: list[int]
    captions: list[int]

    def start(self, context: DistillationContext) -> Start:
        assert context.image_features is not None
        features, texts = context.image_features.of_split("train"), context.embeddings.of_split("train")[0]
        return Start(features[self.images].to(context.device), texts[self.captions].to(context.device), {})
