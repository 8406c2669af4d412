"""Trajectory matching: a student trained on the pairs for a few steps is to end where an expert ended (Cazenavette et al.
2203.11932; Wu et al. 2308.07545, 3.3)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from vldd_dist.config.base import HOW_TO_RUN, NonNegative, Positive, Rate
from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.exchange import BatchExchange
from vldd_dist.distillation.experts import ExpertAwaited, Experts
from vldd_dist.distillation.kinks import refuse_kinked_student
from vldd_dist.distillation.objectives.base import Objective, OuterGradient, OuterProblem
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.sampling import Draw, Sampler, inner_batch_size
from vldd_dist.distillation.snapshot_shelf import shelf_for
from vldd_dist.distillation.unroll import EpsilonChoice, Params
from vldd_dist.distillation.unrolling import Segment, Unrolling, make_unrolling
from vldd_dist.errors import ConfigError, DivergenceError
from vldd_dist.events import Notice
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image import refuse_backbone_dropout
from vldd_dist.models.losses import Learned, Loss
from vldd_dist.models.parameters import TOWERS
from vldd_dist.plugins import GRADIENTS
from vldd_dist.seeding import derive_seed

if TYPE_CHECKING:
    from vldd_dist.config.experiment import Experiment

# (2,) natural logarithms of the inner learning rates of the image and the text tower. The logarithm is what is learned: a rate
# cannot turn negative (docs/decisions.md).
LOG_RATES = "log_rates"


def _known_gradient(name: str) -> str:
    GRADIENTS.load(name)
    return name


class TrajectoryMatching(Objective):
    """Squared distance of the student's end from the expert's, over the expert's own squared way, image and text apart."""

    needs: ClassVar[frozenset[str]] = frozenset({"experts"})
    advice: ClassVar[str] = "lower distill.lr_images, distill.lr_texts, distill.objective.lr_rates or the inner learning rates"
    name: str = "trajectory_matching"
    inner_steps: Positive = Field(8, description="Student steps an outer step (syn_steps).")
    expert_epochs: Positive = Field(1, description="Epochs of the expert that the student's steps must match.")
    max_start_epoch: NonNegative = Field(
        2, description="Start snapshots are drawn from 0, start_stride, 2 start_stride, ... up to max_start_epoch."
    )
    start_stride: Positive = Field(
        1, description="Epochs between two starts. Of what lies between, experts keep only the targets."
    )
    min_experts: Positive | None = Field(
        None,
        description=(
            "A run starts when so many experts, the first ones, are committed; the others join its draws one by one over the "
            "first half of its outer steps. None: it waits for all, and draws from all."
        ),
    )
    gradient: Annotated[str, AfterValidator(_known_gradient)] = Field(
        "exact",
        description="How the unroll is differentiated: full, exact, finite_difference, tesla (README.md, The gradient).",
    )
    difference: Literal["central", "forward"] = Field("central", description="Scheme of finite_difference.")
    dropout: bool = Field(False, description="Run the student with its dropout (masks replayed) instead of without.")
    inner_lr_image: Rate = Field(0.1, description="Inner learning rate of the image tower at the start (lr_teacher_img).")
    inner_lr_text: Rate = Field(0.1, description="Inner learning rate of the text tower at the start (lr_teacher_txt).")
    temperature: Rate | None = Field(
        None,
        description=(
            "Temperature of the loss in the student's steps, where it is another than the experts' and the evaluation's "
            "(published: 1 / log(1 / 0.07) = 0.376); none: that of model.loss."
        ),
    )
    lr_rates: Annotated[float, Field(ge=0)] = Field(
        0.01, description="Outer learning rate of the log inner learning rates (lr_lr); 0 keeps them fixed."
    )
    max_loss: Rate | None = Field(
        20.0,
        description=(
            "A matching loss whose mean over 20 outer steps is larger stops the run as diverged (2 = neither tower of the "
            "student has moved)."
        ),
    )
    check_tolerance: Annotated[Rate, HOW_TO_RUN] = Field(
        0.05,
        description=(
            "Largest relative error of an unroll's gradient against `exact`, on a few pairs, at start-up and later "
            "(finite_difference)."
        ),
    )
    check_every: Annotated[Positive, HOW_TO_RUN] = Field(
        100, description="Outer steps between checks of finite_difference against `exact`."
    )
    offload_snapshots: Annotated[Literal["none", "cpu", "nvme"], HOW_TO_RUN] = Field(
        "none",
        description=(
            "Where the unroll's snapshots wait: with the student, in the host's memory, or on its disk (VLDD_SCRATCH_DIR)."
        ),
    )

    @contextmanager
    def open(self, context: RunContext) -> Iterator[OuterProblem]:
        settings = context.settings
        context.model.bf16_backbone = settings.precision == "bf16"
        batch_size = inner_batch_size(settings.batch_size, context.total)
        with shelf_for(self.offload_snapshots) as shelf:
            loss = self.inner_loss(context.loss)
            unrolling = make_unrolling(context.model, loss, self, shelf, context.ranks, settings.zero_stage, batch_size)
            seed = derive_seed(context.seed, "distillation", context.total)
            yield MatchingProblem(self, context, unrolling, context.open_experts(unrolling.part), seed)

    def inner_loss(self, loss: Loss) -> Loss:
        """What the student's steps lower. Raises ValueError where the loss cannot be had at this temperature."""
        return loss if self.temperature is None else loss.at_temperature(self.temperature)

    def in_short(self) -> str:
        return f"{super().in_short()}, {self.inner_steps} inner steps, gradient {self.gradient}"

    def learned_shared(self) -> dict[str, Learned]:
        return {LOG_RATES: Learned(torch.tensor([self.inner_lr_image, self.inner_lr_text]).log(), self.lr_rates)}

    def learned_numbers(self, shared: Mapping[str, Tensor]) -> dict[str, float]:
        return {f"inner_lr_{tower}": rate for tower, rate in zip(TOWERS, shared[LOG_RATES].exp().tolist(), strict=True)}

    def problems(self, experiment: "Experiment") -> list[str]:
        distill, experts = experiment.distill, experiment.experts
        way, key, found = GRADIENTS.load(self.gradient), "distill.objective", []
        if way.first_order_only and distill.precision == "bf16":
            found.append(
                f"distill.precision: bf16 with {key}.gradient: {self.gradient}: the difference of two passes drowns in the "
                "rounding of one (docs/decisions.md); set precision to fp32 or gradient to exact"
            )
        if self.min_experts is not None and self.min_experts > experts.count:
            found.append(
                f"{key}.min_experts ({self.min_experts}) is more than experts.count ({experts.count}): lower it or train more"
            )
        if (last := max(self.reached_epochs())) > experts.epochs:
            start = self.starts()[-1]
            name = f"{key}.max_start_epoch ({start})" if start == self.max_start_epoch else f"the last start ({start})"
            found.append(
                f"{name} + {key}.expert_epochs ({self.expert_epochs}) = {last} is more than experts.epochs "
                f"({experts.epochs}): lower {key}.max_start_epoch or {key}.expert_epochs, or train longer"
            )
        try:
            self.inner_loss(experiment.model.loss)
        except ValueError as problem:
            found.append(
                f"{key}.temperature: model.loss: {experiment.model.loss.name} {problem}: leave {key}.temperature out, or "
                "change model.loss"
            )
        if way.derivatives is None and (distill.workers > 1 or distill.zero_stage):
            found.append(
                f"{key}.gradient: {self.gradient} keeps one graph in one process: set exact, or distill.workers to 1 and "
                "zero_stage to 0"
            )
        return found

    def wants_smooth_student(self) -> bool:
        return GRADIENTS.load(self.gradient).first_order_only

    def refuse_on_ranks(self, model: DualEncoder) -> None:
        if self.dropout:
            refuse_backbone_dropout(model)

    def first_experts(self, count: int) -> int:
        return count if self.min_experts is None else self.min_experts

    def starts(self) -> range:
        """The epochs that starts are drawn from."""
        return range(0, self.max_start_epoch + 1, self.start_stride)

    def reached_epochs(self) -> frozenset[int]:
        return frozenset(epoch for start in self.starts() for epoch in (start, start + self.expert_epochs))


class MatchingProblem(OuterProblem):
    """Draws an expert and a start, unrolls the student, differentiates.

    Args:
        seed: every draw of an outer step derives from it and the step.

    Attributes:
        epsilon_choice: of finite differences, once it is made.
        differences: (outer step, relative error) at each check of finite differences.
    """

    def __init__(
        self, settings: TrajectoryMatching, context: RunContext, unrolling: Unrolling, experts: Experts, seed: int
    ) -> None:
        self.settings, self.context, self.unrolling, self.experts = settings, context, unrolling, experts
        self.seed = seed
        self.sampler = Sampler(
            context.total,
            experts.count,
            inner_batch_size(context.settings.batch_size, context.total),
            settings.inner_steps,
            settings.starts(),
            settings.min_experts,
            context.settings.outer_steps,
            self.seed,
        )
        self.shared_of_loss = list(context.loss.learned_shared())
        self.epsilon_choice: EpsilonChoice | None = None
        self.differences: list[tuple[int, float]] = []
        # Of images that keep their start by a frozen backbone, this rank's rows, once they are made.
        self._fixed_features: Tensor | None = None
        # So many of the first experts are known to be committed.
        self._present = 0

    def begin(self, pairs: SyntheticPairs) -> None:
        """Raises ConfigError where finite differences do not agree with `exact` on this student."""
        if self.settings.wants_smooth_student():
            refuse_kinked_student(self.unrolling.model)
            self._check_differences(0, pairs)

    def awaited(self, step: int) -> Exception | None:
        """The first expert of this step's pool that is not committed."""
        pool, ranks = self.sampler.pool(step), self.context.ranks
        if self._present < pool:
            # One rank looks: all must see the same.
            missing = ranks.broadcast(self.experts.first_missing(range(self._present, pool)) if ranks.is_main else None)
            if missing is not None:
                return ExpertAwaited(missing)
            self._present = pool
        return None

    def prefetch(self, step: int) -> None:
        drawn = self.sampler.draw(step)
        if drawn.expert < self._present:
            for epoch in (drawn.start, drawn.start + self.settings.expert_epochs):
                self.experts[drawn.expert].prefetch(epoch)

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        if self.epsilon_choice and step and step % self.settings.check_every == 0:
            self._check_differences(step, pairs)
        rates = pairs.shared[LOG_RATES].exp()
        if not bool((rates.isfinite() & (rates > 0)).all()):
            raise DivergenceError(f"the inner learning rates are {rates.tolist()} at outer step {step}: {self.settings.advice}")
        drawn = self.sampler.draw(step)
        exchange = self._exchange(drawn, pairs, self.context.settings.tower_graph_mib << 20)
        segment = self._segment(step, drawn, exchange, rates, pairs)
        result = self.unrolling.gradient(segment, self.epsilon_choice and self.epsilon_choice.relative_epsilon)
        rows, row_gradients = exchange.gradients(result.batches)
        of_loss = dict(zip(self.shared_of_loss, result.shared, strict=True))
        terms = dict(zip(TOWERS, result.terms.tolist(), strict=True))
        return OuterGradient(terms, rows, row_gradients, {LOG_RATES: result.rates * rates} | of_loss)

    def state(self) -> dict[str, Any]:
        """The choice at the start, and the errors since."""
        if self.epsilon_choice is None:
            return {}
        return {"difference_check": self.epsilon_choice._asdict() | {"later": self.differences[1:]}}

    def restore(self, state: dict[str, Any]) -> None:
        if check := state.get("difference_check"):
            self.epsilon_choice = EpsilonChoice(check["relative_epsilon"], check["error"], check["against"])
            self.differences = [(0, check["error"]), *((at, error) for at, error in check["later"])]

    def figures(self) -> dict[str, Any]:
        return {"difference_error": self.differences[-1][1]} if self.differences else {}

    def _exchange(self, drawn: Draw, pairs: SyntheticPairs, graph_limit: int) -> BatchExchange:
        ranks = self.context.ranks
        parts = [drawn.part(rank, ranks.world_size) for rank in range(ranks.world_size)]
        tower = self.unrolling.tower
        if tower and "images" in pairs.fixed:
            if self._fixed_features is None:
                self._fixed_features = tower.features(pairs.images)
            pairs, tower = replace(pairs, rows=pairs.rows | {"images": self._fixed_features}), None
        return BatchExchange(ranks, tower, pairs, self.context.total, parts, graph_limit)

    def _segment(self, step: int, drawn: Draw, exchange: BatchExchange, rates: Tensor, pairs: SyntheticPairs) -> Segment:
        start, target = drawn.start, drawn.start + self.settings.expert_epochs
        return Segment(
            self._snapshot(drawn.expert, start),
            self._snapshot(drawn.expert, target),
            rates,
            exchange.batches,
            [pairs.shared[name] for name in self.shared_of_loss],
            derive_seed(self.seed, "dropout", step),
            exchange.fixed,
        )

    def _snapshot(self, expert: int, epoch: int) -> Params:
        trajectory = self.experts[expert]
        return self.unrolling.theta(trajectory.snapshot(epoch, "image"), trajectory.snapshot(epoch, "text"))

    def _check_differences(self, step: int, pairs: SyntheticPairs) -> None:
        """Choose the epsilon of finite differences at outer step 0; later, see that it still serves."""
        drawn, tolerance = self.sampler.draw(step), self.settings.check_tolerance
        known = self.epsilon_choice and self.epsilon_choice.relative_epsilon
        # No gradient is carried from here to the pixels.
        exchange = self._exchange(drawn, pairs, graph_limit=0)
        segment = self._segment(step, drawn, exchange, pairs.shared[LOG_RATES].exp(), pairs)
        found = self.unrolling.check_differences(segment, known)
        if not found.error <= tolerance:
            raise ConfigError(
                f"distill.objective.gradient: at outer step {step} finite_difference is off by {found.error:.2g} against "
                f"{found.against} over {self.settings.inner_steps} inner steps, more than distill.objective.check_tolerance "
                f"({tolerance:g}): differences are of no use for networks with kinks, nor where the loss bends this sharply; "
                "set distill.objective.gradient: exact"
            )
        self.differences.append((step, found.error))
        if self.epsilon_choice is None:
            self.epsilon_choice = found
            self.context.report(
                Notice(f"finite differences are off by {found.error:.1e} against {found.against} over an unroll")
            )
