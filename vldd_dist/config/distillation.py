"""distill: what is learned, from which start, by which gradient."""

from typing import Annotated, Literal

from pydantic import Field

from vldd_dist.config.base import (
    HOW_TO_RUN,
    PRECISION,
    Distinct,
    NonNegative,
    Positive,
    Precision,
    Rate,
    Resources,
    Section,
    Seed,
    ZeroStage,
)


class DistillSettings(Section):
    """Bi-trajectory matching: what is learned, from what start, with which gradient."""

    pairs: Distinct[Positive] = Field([100], description="Budgets M: one run for each and each seed.")
    seeds: Distinct[Seed] = [0]
    initialise: Literal["real", "noise", "kmeans"] = Field(
        "real",
        description="Start of the synthetic pairs: random real pairs; Gaussian noise; the real pairs nearest to k-means centres of joint features.",
    )
    outer_steps: Positive = Field(2000)
    inner_steps: Positive = Field(8, description="Student steps an outer step (syn_steps).")
    batch_size: Positive | None = Field(None, description="Pairs an inner step; none: all M (mini_batch_size).")
    expert_epochs: Positive = Field(1, description="Epochs of the expert that the student's steps must match.")
    max_start_epoch: NonNegative = Field(2, description="Start snapshots are drawn from 0..max_start_epoch.")
    min_experts: Positive | None = Field(
        None,
        description="A run starts when so many experts, the first ones, are committed; the others join its draws one by one over the first half of its outer steps. None: it waits for all, and draws from all.",
    )
    gradient: Literal["full", "exact", "finite_difference", "tesla"] = Field(
        "exact", description="How the unroll is differentiated (README.md, The gradient)."
    )
    difference: Literal["central", "forward"] = Field("central", description="Scheme of finite_difference.")
    precision: Precision = Field("fp32", description=f"{PRECISION} Not with finite_difference.")
    dropout: bool = Field(False, description="Run the student with its dropout (masks replayed) instead of without.")
    optimiser: Literal["sgd", "adam"] = Field("adam", description="Outer optimiser; adam uses betas (0.5, 0.9).")
    lr_images: Rate = Field(0.05, description="Outer learning rate of the images (lr_img).")
    lr_texts: Rate = Field(0.05, description="Outer learning rate of the text embeddings (lr_txt).")
    lr_rates: Annotated[float, Field(ge=0)] = Field(
        0.01, description="Outer learning rate of the log inner learning rates (lr_lr); 0 keeps them fixed."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="Momentum of the outer sgd.")
    inner_lr_image: Rate = Field(0.1, description="Inner learning rate of the image tower at the start (lr_teacher_img).")
    inner_lr_text: Rate = Field(0.1, description="Inner learning rate of the text tower at the start (lr_teacher_txt).")
    max_loss: Rate = Field(
        20.0,
        description="A matching loss whose mean over 20 outer steps is larger stops the run as diverged (2 = neither tower of the student has moved).",
    )
    check_tolerance: Annotated[Rate, HOW_TO_RUN] = Field(
        0.05,
        description="Largest relative error of an unroll's gradient against `exact`, on a few pairs, at start-up and later (finite_difference).",
    )
    check_every: Annotated[Positive, HOW_TO_RUN] = Field(
        100, description="Outer steps between checks of finite_difference against `exact`."
    )
    workers: Annotated[Positive, HOW_TO_RUN] = Field(
        1, description="Ranks of one run; each owns its share of the pairs and asks for `resources`."
    )
    zero_stage: Annotated[ZeroStage, HOW_TO_RUN] = Field(
        0,
        description="How the student lies on the ranks: 0 whole on each; 1, 2 whole, gradients in shards by DeepSpeed; 3 in shards. Snapshots and the adjoint are sharded at every stage.",
    )
    rank_timeout_seconds: Annotated[Positive, HOW_TO_RUN] = Field(
        600,
        description="A rank that does not answer the others for so long is given up, and the run starts again from its checkpoint.",
    )
    offload_snapshots: Annotated[Literal["none", "cpu", "nvme"], HOW_TO_RUN] = Field(
        "none",
        description="Where the unroll's snapshots wait: with the student, in the host's memory, or on its disk (VLDD_SCRATCH_DIR).",
    )
    validate_every: Positive = Field(
        200, description="Outer steps between validations; the best validated pairs are published."
    )
    checkpoint_every: Annotated[Positive, HOW_TO_RUN] = Field(50, description="Outer steps between checkpoints.")
    resources: Annotated[Resources, HOW_TO_RUN] = Field(default_factory=Resources)
