"""distill: what is learned, from which start, by which outer problem."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from vldd_dist.config.base import (
    HOW_TO_RUN,
    PRECISION,
    AnyPlugin,
    Distinct,
    NonNegative,
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


def _initialisation(chosen: Any) -> Any:
    """As `plugin_of`; a mapping that says what images or texts begin as is that of `apart`."""
    if isinstance(chosen, dict) and "name" not in chosen and not chosen.keys().isdisjoint(("images", "texts")):
        chosen = {"name": "apart", **chosen}
    return choose(INITIALISATIONS, chosen, default="real")


class DistillSettings(Section):
    """One run: what its pairs begin as, what moves them, and how they are moved."""

    initialise: Annotated[AnyPlugin, BeforeValidator(_initialisation)] = Field(
        default_factory=lambda: choose(INITIALISATIONS, "real"),
        description="Start of the synthetic pairs, of images and texts alike, or {images: ..., texts: ...}.",
    )
    objective: Annotated[AnyPlugin, plugin_of(OBJECTIVES, default="trajectory_matching")] = Field(
        default_factory=lambda: choose(OBJECTIVES, "trajectory_matching"),
        description="The outer problem, whose gradient moves the pairs.",
    )
    outer_steps: Positive = Field(2000, description="Steps of the outer optimiser.")
    batch_size: Positive | None = Field(None, description="Pairs an inner step; none: all M (mini_batch_size).")
    precision: Precision = Field("fp32", description=f"{PRECISION} Not with finite_difference.")
    optimiser: Literal["sgd", "adam"] = Field("adam", description="Outer optimiser; adam uses betas (0.5, 0.9).")
    lr_images: Annotated[float, Field(ge=0)] = Field(
        0.05, description="Outer learning rate of the images (lr_img); 0: they keep their start, and only texts are learned."
    )
    lr_texts: Annotated[float, Field(ge=0)] = Field(
        0.05,
        description="Outer learning rate of the text embeddings (lr_txt); 0: they keep their start, and only images are learned.",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="Momentum of the outer sgd.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0,
        description=(
            "Decay of a running average of all that is learned, a step at a time; the average is validated and published. 0: the "
            "pairs themselves."
        ),
    )
    workers: Annotated[Positive, HOW_TO_RUN] = Field(
        1, description="Ranks of one run; each owns its rows of the pairs and asks for `resources`."
    )
    sharding: Annotated[Sharding, HOW_TO_RUN] = Field(
        "none",
        description="How the student lies on the ranks. none: whole on each; zero1, zero2: whole, its gradients in shards by DeepSpeed; zero3: in shards by DeepSpeed; fsdp: in shards by torch. Snapshots and the adjoint are in shards with each of them.",
    )
    rank_timeout_seconds: Annotated[Positive, HOW_TO_RUN] = Field(
        600,
        description="A rank that does not answer the others for so long is given up, and the run starts again from its checkpoint.",
    )
    tower_graph_mib: Annotated[NonNegative, HOW_TO_RUN] = Field(
        2048,
        description="Frozen image tower: memory for activations that an outer step keeps for its way back to the pixels; images beyond it pass the tower a second time.",
    )
    validate_every: Positive = Field(
        200, description="Outer steps between validations; the best validated pairs are published."
    )
    checkpoint_every: Annotated[Positive, HOW_TO_RUN] = Field(50, description="Outer steps between checkpoints.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)

    def rates(self) -> dict[str, float]:
        """The outer learning rates of images and texts, by name."""
        return {"images": self.lr_images, "texts": self.lr_texts}

    def fixed(self) -> frozenset[str]:
        """Which of images and texts keep their start."""
        return frozenset(name for name, rate in self.rates().items() if rate == 0)


class Phase(Section):
    """A part of the pairs, learned when those of the phases before it are there."""

    pairs: Positive | None = Field(None, description="How many; of the last phase none: what the others leave of the budget.")
    outer_steps: Positive | None = Field(None, description="Of this phase; none: distill.outer_steps.")
    objective: dict[str, Any] = Field(
        default_factory=dict, description="Settings of distill.objective that this phase has others of."
    )


class DistillationsSettings(DistillSettings):
    """The runs of an experiment: one for each budget and each seed."""

    pairs: Distinct[Positive] = Field([100], description="Budgets M: one run for each and each seed.")
    seeds: Distinct[Seed] = Field([0], description="One run for each, of each budget: its draws and its start.")
    phases: list[Phase] = Field(
        [],
        max_length=20,
        description=(
            "The pairs are learned in phases: [{pairs: 200, objective: {max_start_epoch: 1}}, {objective: {min_start_epoch: 1}}]; a "
            "student is trained on one after the other, each for all epochs."
        ),
    )

    def pairs_of_phases(self, pairs: int) -> list[int]:
        """Of a budget; without phases all."""
        given = [phase.pairs for phase in self.phases if phase.pairs is not None]
        return [*given, pairs - sum(given)]

    def of_phases(self) -> list["DistillationsSettings"]:
        """The settings of each phase with its pairs of each budget; without phases these."""
        if not self.phases:
            return [self]
        found = []
        for number, phase in enumerate(self.phases):
            changed = {
                "objective": choose(OBJECTIVES, self.objective.model_dump() | phase.objective),
                "outer_steps": phase.outer_steps or self.outer_steps,
                "pairs": [self.pairs_of_phases(pairs)[number] for pairs in self.pairs],
                "phases": [],
            }
            found.append(self.model_copy(update=changed))
        return found

    @model_validator(mode="after")
    def _phases_make_a_budget(self) -> Self:
        if not self.phases:
            return self
        counts = [phase.pairs for phase in self.phases]
        if len(counts) < 2 or None in counts[:-1] or counts[-1] is not None:
            raise ValueError(
                "phases: at least two, each but the last with its pairs, for the last has what they leave of the budget"
            )
        if (left := self.pairs_of_phases(min(self.pairs))[-1]) < 1:
            raise ValueError(f"phases: of {min(self.pairs)} pairs the last phase has {left}: lower the pairs of the others")
        for number, phase in enumerate(self.phases):
            if "name" in phase.objective:
                raise ValueError(f"phases.{number}.objective: the objective is the same in all phases: leave its name out")
            try:
                choose(OBJECTIVES, self.objective.model_dump() | phase.objective)
            except ValidationError as error:
                wrong = error.errors()[0]
                key = ".".join(map(str, (f"phases.{number}.objective", *wrong["loc"])))
                raise ValueError(f"{key}: {wrong['msg']}") from None
        return self

    def run_settings(self) -> DistillSettings:
        """Without the lists."""
        return DistillSettings(**{name: getattr(self, name) for name in DistillSettings.model_fields})
