"""The outer problem of trajectory matching."""

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from vldd_dist.distillation.batch_exchange import BatchExchange, ImageInputs
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.expert_trajectories import ExpertAwaited, Experts
from vldd_dist.distillation.inner_batches import inner_batch_size
from vldd_dist.distillation.objectives.outer_problem import OuterGradient, OuterProblem
from vldd_dist.distillation.objectives.trajectory_matching.asynchronous import starts_by_pace
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.objectives.trajectory_matching.sampler import Draw, Sampler
from vldd_dist.distillation.objectives.trajectory_matching.settings import TrajectoryMatchingSettings
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import Shortcuts
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs, Snapshots, States
from vldd_dist.distillation.objectives.unrolled import LOG_RATES
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.student.kinks import refuse_kinked_student
from vldd_dist.distillation.student.unroller import StudentUnroll, Unroller
from vldd_dist.distillation.unroll import EpsilonChoice, OuterLoss, Tensors, Unroll
from vldd_dist.errors import ConfigError
from vldd_dist.events import Notice
from vldd_dist.models.parameters import TOWERS
from vldd_dist.seeding import derive_seed


class TrajectoryMatchingProblem(OuterProblem):
    """Each outer step draws an expert and a start, unrolls the student from there and differentiates the matching loss. A
    subclass with another `outer_loss` is named by `TrajectoryMatching.problem_class`.

    Args:
        seed: every draw of an outer step derives from it and the step.

    Attributes:
        epsilon_choice: the epsilon of finite differences, once chosen.
        difference_errors: (outer step, relative error) of each check of finite differences.
        auto_starts: the start epochs of the image and of the text tower by `asynchronous: {auto: true}`, once found.
    """

    def __init__(
        self,
        settings: TrajectoryMatchingSettings,
        context: DistillationContext,
        unroller: Unroller,
        experts: Experts,
        seed: int,
    ) -> None:
        self.settings, self.context, self.unroller, self.experts = settings, context, unroller, experts
        self.seed = seed
        self.sampler = Sampler(
            pairs=context.total,
            experts=experts.count,
            batch_size=inner_batch_size(context.settings.batch_size, context.total),
            inner_steps=settings.inner_steps,
            starts=settings.starts_of_towers(),
            min_experts=settings.min_experts,
            outer_steps=context.settings.outer_steps,
            seed=self.seed,
        )
        # The experts' states as they were trained, and as they are matched.
        self.snapshots = Snapshots(experts, unroller)
        shortcut = settings.shortcut_epochs()
        self.shortcuts = Shortcuts(self.snapshots, shortcut, context.ranks) if shortcut else None
        self.states: States = self.shortcuts or self.snapshots
        self.auto_starts: tuple[list[int], list[int]] | None = None
        self.shared_of_loss = list(context.loss.learned_shared())
        self.epsilon_choice: EpsilonChoice | None = None
        self.difference_errors: list[tuple[int, float]] = []
        self.inputs = ImageInputs(unroller.frozen_backbone)
        # The first experts, this many, are known to be committed.
        self._committed = 0

    def begin(self, pairs: SyntheticPairs) -> None:
        """Raises ConfigError if finite differences do not agree with `exact` on this student."""
        if self.settings.asynchronous is not None and self.settings.asynchronous.auto:
            self._find_starts()
        if self.settings.wants_smooth_student():
            refuse_kinked_student(self.unroller.model)
            self._check_differences(0, pairs)

    def awaited(self, step: int) -> Exception | None:
        """`ExpertAwaited` for the first expert that this step may draw and that is not committed yet."""
        pool, ranks = self.sampler.pool(step), self.context.ranks
        if self._committed < pool:
            # Only rank 0 asks the store, so that all ranks act on the same answer.
            missing = ranks.broadcast(self.experts.first_missing(range(self._committed, pool)) if ranks.is_main else None)
            if missing is not None:
                return ExpertAwaited(missing)
            self._committed = pool
        return None

    def prefetch(self, step: int) -> None:
        draw = self.sampler.draw(step)
        if draw.expert < self._committed:
            self.states.prefetch(draw.expert, *self._start_and_target(draw))

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        if self.epsilon_choice and step and step % self.settings.check_every == 0:
            self._check_differences(step, pairs)
        rates = self.settings.inner_rates(pairs.shared, step)
        draw = self.sampler.draw(step)
        exchange = self.inputs.exchange(self.context, pairs, draw.batches)
        student_unroll = self._student_unroll(step, draw, exchange, rates, pairs)
        result = self.unroller.gradient(student_unroll, self.epsilon_choice and self.epsilon_choice.relative_epsilon)
        rows, row_gradients = exchange.gradients(result.batch_gradients)
        terms = dict(zip(TOWERS, result.terms.tolist(), strict=True))
        shared_gradients = self.settings.shared_gradients(result, rates, self.shared_of_loss)
        return OuterGradient(terms, rows, row_gradients, shared_gradients)

    def facts(self) -> dict[str, Any]:
        """What was chosen at the start, and the errors of finite differences since."""
        facts: dict[str, Any] = {}
        if self.auto_starts:
            facts["starts"] = dict(zip(TOWERS, self.auto_starts, strict=True))
        if self.epsilon_choice:
            facts["difference_check"] = self.epsilon_choice._asdict() | {"later": self.difference_errors[1:]}
        return facts

    def state(self) -> dict[str, Any]:
        """The facts, and the betas of the shortcuts, so that a resumed distillation does not read the paths again."""
        if self.shortcuts is None:
            return self.facts()
        # Keys of JSON are strings.
        return self.facts() | {"betas": {str(expert): betas for expert, betas in self.shortcuts.betas.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        if starts := state.get("starts"):
            self._use_starts((starts["image"], starts["text"]))
        if check := state.get("difference_check"):
            self.epsilon_choice = EpsilonChoice(check["relative_epsilon"], check["error"], check["against"])
            self.difference_errors = [(0, check["error"]), *((step, error) for step, error in check["later"])]
        if self.shortcuts is not None:
            self.shortcuts.betas = {int(expert): betas for expert, betas in state["betas"].items()}

    def figures(self) -> dict[str, Any]:
        return {"difference_error": self.difference_errors[-1][1]} if self.difference_errors else {}

    def _student_unroll(
        self, step: int, draw: Draw, exchange: BatchExchange, rates: Tensor, pairs: SyntheticPairs
    ) -> StudentUnroll:
        start, target = self.states.at(draw.expert, *self._start_and_target(draw))
        shared = [pairs.shared[name] for name in self.shared_of_loss]
        blending = self.settings.blend
        blend = None if blending is None else blending.of_step(derive_seed(self.seed, "blend", step))
        outer = self.outer_loss(start, target)
        unroll = Unroll(start, rates, exchange.batches, outer, self.unroller.towers, shared)
        return StudentUnroll(unroll, derive_seed(self.seed, "dropout", step), exchange.fixed, blend)

    def outer_loss(self, start: Tensors, target: Tensors) -> OuterLoss:
        """The outer loss of an outer step, with one term for each tower: theta_T -> (2,).

        Args:
            start: the expert's parameters where the student starts; with several ranks this rank's shards.
            target: the expert's parameters that the student should reach, likewise.
        """
        return partial(matching_loss, start=start, target=target, towers=self.unroller.towers, ranks=self.context.ranks)

    def _start_and_target(self, draw: Draw) -> tuple[Epochs, Epochs]:
        """The epochs that the student starts from and should reach."""
        image, text = draw.starts
        return draw.starts, (image + self.settings.expert_epochs, text + self.settings.expert_epochs)

    def _find_starts(self) -> None:
        """Choose the start epochs of `asynchronous: {auto: true}`, from the experts that the distillation starts with."""
        settings, experts = self.settings, range(self.settings.first_experts(self.experts.count))
        starts = starts_by_pace(self.snapshots, experts, settings.starts(), settings.expert_epochs, self.context.ranks)
        self._use_starts(starts)
        self.context.report(Notice(f"start epochs of the image tower {starts[0]}, of the text tower {starts[1]}"))

    def _use_starts(self, starts: tuple[list[int], list[int]]) -> None:
        self.auto_starts = starts
        self.sampler = replace(self.sampler, starts=list(product(*starts)))

    def _check_differences(self, step: int, pairs: SyntheticPairs) -> None:
        """Choose the epsilon of finite differences at outer step 0; at later steps check that it still works."""
        draw, tolerance = self.sampler.draw(step), self.settings.check_tolerance
        epsilon_in_use = self.epsilon_choice and self.epsilon_choice.relative_epsilon
        # The check propagates no gradient to the pixels, so no graph of the backbone is kept.
        exchange = self.inputs.exchange(self.context, pairs, draw.batches, keep_graphs=False)
        student_unroll = self._student_unroll(step, draw, exchange, pairs.shared[LOG_RATES].exp(), pairs)
        choice = self.unroller.check_differences(student_unroll, epsilon_in_use)
        if not choice.error <= tolerance:
            raise ConfigError(
                f"distill.objective.gradient: at outer step {step} finite_difference is off by {choice.error:.2g} against "
                f"{choice.against} over {self.settings.inner_steps} inner steps, more than distill.objective.check_tolerance "
                f"({tolerance:g}): finite differences fail for networks with ReLU or max pooling, and where the loss is "
                "strongly curved; set distill.objective.gradient: exact"
            )
        self.difference_errors.append((step, choice.error))
        if self.epsilon_choice is None:
            self.epsilon_choice = choice
            self.context.report(
                Notice(f"finite differences are off by {choice.error:.1e} against {choice.against} over an unroll")
            )
