"""distill: the synthetic pairs to learn, their initialisation, and the objective and optimiser that they are learned by."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, ValidationError, model_validator

from vldd_dist.config.base import (
    HOW_TO_RUN,
    PRECISION,
    AnyPlugin,
    Distinct,
    NonNegative,
    PairCount,
    Positive,
    Precision,
    Resources,
    Section,
    Seed,
    Sharding,
    choose,
    plugin_of,
)
from vldd_dist.plugins import INITIALISATIONS, OBJECTIVES
from vldd_dist.strict_model import first_error

# The names of checkpoints have eight digits for the step.
OuterSteps = Annotated[int, Field(gt=0, lt=10**8)]


def _initialisation(chosen: Any) -> Any:
    """As `plugin_of`; a mapping with the key `images` or `texts` and no name holds the settings of `by_modality`."""
    if isinstance(chosen, dict) and "name" not in chosen and not chosen.keys().isdisjoint(("images", "texts")):
        chosen = {"name": "by_modality", **chosen}
    return choose(INITIALISATIONS, chosen, default="real")


class DistillationSettings(Section):
    """One distillation: the initialisation of its pairs, its objective and its outer optimiser."""

    initialise: Annotated[AnyPlugin, BeforeValidator(_initialisation)] = Field(
        default_factory=lambda: choose(INITIALISATIONS, "real"),
        description="Initialisation of the synthetic pairs: one plug-in for images and texts, or {images: ..., texts: ...}.",
    )
    objective: Annotated[AnyPlugin, plugin_of(OBJECTIVES, default="trajectory_matching")] = Field(
        default_factory=lambda: choose(OBJECTIVES, "trajectory_matching"),
        description="The outer objective, whose gradient updates the pairs.",
    )
    outer_steps: OuterSteps = Field(2000, description="Steps of the outer optimiser.")
    batch_size: PairCount | None = Field(
        None,
        description="Pairs in an inner step (mini_batch_size); null: all M. No effect on objectives that train no student.",
    )
    precision: Precision = Field("fp32", description=f"{PRECISION} bf16 cannot be combined with finite_difference.")
    optimiser: Literal["sgd", "adam"] = Field("adam", description="Outer optimiser; adam uses betas (0.5, 0.9).")
    lr_images: NonNegativeFloat = Field(
        0.05,
        description="Outer learning rate of the images (lr_img), with adam of the order of 0.01 to 0.1, with sgd hundreds (published: "
        "100 to 1000); 0: images stay as initialised.",
    )
    lr_texts: NonNegativeFloat = Field(
        0.05,
        description="Outer learning rate of the synthetic texts (lr_txt), of the order of lr_images; 0: they stay as initialised. If "
        "both are 0, only a similarity is learned (model.loss), of pairs that keep their images and texts.",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="Momentum of sgd; no effect with adam.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0,
        description="Decay per outer step of an exponential moving average of everything that is learned; the average is then "
        "validated and published. 0: the pairs themselves are validated and published.",
    )
    workers: Annotated[Positive, HOW_TO_RUN] = Field(
        1, description="Ranks of one distillation; each owns some rows of the pairs and requests `resources`."
    )
    sharding: Annotated[Sharding, HOW_TO_RUN] = Field(
        "none",
        description="How the student is distributed over the ranks. none: replicated; zero1: replicated by DeepSpeed, which saves "
        "hardly any memory of a student; zero2: replicated, and DeepSpeed shards its gradients; zero3: DeepSpeed shards its "
        "parameters; fsdp: torch's FSDP2 shards them. With several ranks, the snapshots and the adjoint (the gradient that is "
        "propagated back through the inner steps) are sharded in any case.",
    )
    rank_timeout_seconds: Annotated[Positive, HOW_TO_RUN] = Field(
        600,
        description="A rank that does not answer the others for this long is given up, and the unit resumes from its checkpoint.",
    )
    tower_graph_mib: Annotated[NonNegative, HOW_TO_RUN] = Field(
        2048,
        description="With a frozen image backbone: memory in MiB for activations that an outer step keeps for the backward pass "
        "to the pixels; for images beyond it the forward pass is computed a second time.",
    )
    validate_every: Positive = Field(
        200, description="Outer steps between validations; the pairs with the best validation are published."
    )
    checkpoint_every: Annotated[Positive, HOW_TO_RUN] = Field(50, description="Outer steps between checkpoints.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)

    def without_effect(self) -> frozenset[str]:
        return frozenset() if self.optimiser == "sgd" else frozenset({"momentum"})

    def outer_rates(self) -> dict[str, float]:
        """The outer learning rates of images and texts, by name."""
        return {"images": self.lr_images, "texts": self.lr_texts}

    def fixed(self) -> frozenset[str]:
        """Which of images and texts are not learned, because their rate is 0."""
        return frozenset(name for name, rate in self.outer_rates().items() if rate == 0)

    def moments(self) -> tuple[str, ...]:
        """The names of the outer optimiser's moments, of which each takes as much memory as what is learned."""
        if self.optimiser == "adam":
            return "mean", "square"
        return ("momentum",) if self.momentum else ()

    def validations(self) -> int:
        """The number of validations: of the starting pairs, periodic ones, and one after the last outer step."""
        return 1 + math.ceil(self.outer_steps / self.validate_every)


class Phase(Section):
    """A part of the pairs, learned after those of the earlier phases."""

    pairs: PairCount | None = Field(
        None, description="Number of pairs, required in all phases but the last, which gets the remaining pairs (null)."
    )
    outer_steps: OuterSteps | None = Field(None, description="Outer steps of this phase; null: distill.outer_steps.")
    objective: dict[str, Any] = Field(
        default_factory=dict, description="Settings of distill.objective that differ in this phase."
    )


class DistillSection(DistillationSettings):
    """The distillations of an experiment: one for each number of pairs and each seed."""

    pairs: Distinct[PairCount] = Field(
        [100], description="Numbers of synthetic pairs M: one distillation for each number and seed."
    )
    seeds: Distinct[Seed] = Field(
        [0], description="Seeds of initialisation and random draws: one distillation for each number of pairs and each seed."
    )
    phases: list[Phase] = Field(
        [],
        max_length=20,
        description="Phases in which the pairs are learned one part after the other, for example [{pairs: 200, objective: "
        "{max_start_epoch: 1}}, {objective: {min_start_epoch: 1}}]. A student is trained on the parts in the same order, on each "
        "for all epochs.",
    )

    def sets(self) -> list[tuple[int, int]]:
        """(number of pairs, seed) of each distillation."""
        return [(pairs, seed) for pairs in self.pairs for seed in self.seeds]

    def pairs_of_phases(self, pairs: int) -> list[int]:
        """The number of pairs of each phase, of M pairs in all; without phases, M itself."""
        stated = [phase.pairs for phase in self.phases if phase.pairs is not None]
        return [*stated, pairs - sum(stated)]

    def of_phases(self) -> list["DistillSection"]:
        """The settings of each phase, with its share of each number of pairs; without phases, these settings themselves."""
        if not self.phases:
            return [self]
        settings = []
        for number, phase in enumerate(self.phases):
            changes = {
                "objective": choose(OBJECTIVES, self.objective.model_dump() | phase.objective),
                "outer_steps": phase.outer_steps or self.outer_steps,
                "pairs": [self.pairs_of_phases(pairs)[number] for pairs in self.pairs],
                "phases": [],
            }
            settings.append(self.model_copy(update=changes))
        return settings

    @model_validator(mode="after")
    def _phases_share_the_pairs(self) -> Self:
        if not self.phases:
            return self
        counts = [phase.pairs for phase in self.phases]
        if len(counts) < 2 or None in counts[:-1] or counts[-1] is not None:
            raise ValueError(
                "phases: give at least two phases, and set pairs in each but the last, which gets the remaining pairs"
            )
        if (remaining := self.pairs_of_phases(min(self.pairs))[-1]) < 2:
            raise ValueError(
                f"phases: of {min(self.pairs)} pairs, the last phase gets {remaining}, and needs 2: lower the pairs of the others"
            )
        for number, phase in enumerate(self.phases):
            if "name" in phase.objective:
                raise ValueError(f"phases.{number}.objective: all phases have the same objective: remove its name")
            try:
                choose(OBJECTIVES, self.objective.model_dump() | phase.objective)
            except ValidationError as error:
                raise ValueError(first_error(error, f"phases.{number}.objective")) from None
        return self

    def distillation_settings(self) -> DistillationSettings:
        """The settings of a single distillation: these without numbers of pairs, seeds and phases."""
        return self.narrowed_to(DistillationSettings)
