"""Trajectory matching at work."""

from dataclasses import replace
from itertools import product
from typing import Any

from torch import Tensor

from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.experts import ExpertAwaited, Experts
from vldd_dist.distillation.objectives.base import OuterGradient, OuterProblem
from vldd_dist.distillation.objectives.trajectory_matching.asynchronous import starts_by_pace
from vldd_dist.distillation.objectives.trajectory_matching.distance import distance_to
from vldd_dist.distillation.objectives.trajectory_matching.settings import MatchingSettings
from vldd_dist.distillation.objectives.trajectory_matching.shortcut import Shortcuts
from vldd_dist.distillation.objectives.trajectory_matching.states import Epochs, Snapshots, States
from vldd_dist.distillation.objectives.unrolled import LOG_RATES
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.sampling import Draw, Sampler, inner_batch_size
from vldd_dist.distillation.student.exchange import BatchExchange, ImageInputs
from vldd_dist.distillation.student.kinks import refuse_kinked_student
from vldd_dist.distillation.student.unrolling import Segment, Unrolling
from vldd_dist.distillation.unroll import EpsilonChoice
from vldd_dist.errors import ConfigError
from vldd_dist.events import Notice
from vldd_dist.models.parameters import TOWERS
from vldd_dist.seeding import derive_seed


class MatchingProblem(OuterProblem):
    """Draws an expert and a start, unrolls the student, differentiates.

    Args:
        seed: every draw of an outer step derives from it and the step.

    Attributes:
        epsilon_choice: of finite differences, once it is made.
        differences: (outer step, relative error) at each check of finite differences.
        paced: the starts of the image and of the text tower, of `asynchronous: {auto: true}` once they are found.
    """

    def __init__(
        self, settings: MatchingSettings, context: RunContext, unrolling: Unrolling, experts: Experts, seed: int
    ) -> None:
        self.settings, self.context, self.unrolling, self.experts = settings, context, unrolling, experts
        self.seed = seed
        self.sampler = Sampler(
            context.total,
            experts.count,
            inner_batch_size(context.settings.batch_size, context.total),
            settings.inner_steps,
            settings.starts_of_towers(),
            settings.min_experts,
            context.settings.outer_steps,
            self.seed,
        )
        # The experts' own, and as they are matched.
        self.snapshots = Snapshots(experts, unrolling)
        straight = settings.straightened_epochs()
        self.states: States = Shortcuts(self.snapshots, straight, context.ranks) if straight else self.snapshots
        self.paced: tuple[list[int], list[int]] | None = None
        self.shared_of_loss = list(context.loss.learned_shared())
        self.epsilon_choice: EpsilonChoice | None = None
        self.differences: list[tuple[int, float]] = []
        self.inputs = ImageInputs(unrolling.tower)
        # So many of the first experts are known to be committed.
        self._present = 0

    def begin(self, pairs: SyntheticPairs) -> None:
        """Raises ConfigError where finite differences do not agree with `exact` on this student."""
        if self.settings.asynchronous is not None and self.settings.asynchronous.auto:
            self._find_starts()
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
            self.states.prefetch(drawn.expert, *self._ends(drawn))

    def gradient(self, step: int, pairs: SyntheticPairs) -> OuterGradient:
        if self.epsilon_choice and step and step % self.settings.check_every == 0:
            self._check_differences(step, pairs)
        rates = self.settings.inner_rates(pairs.shared, step)
        drawn = self.sampler.draw(step)
        exchange = self._exchange(drawn, pairs, self.context.settings.tower_graph_mib << 20)
        segment = self._segment(step, drawn, exchange, rates, pairs)
        result = self.unrolling.gradient(segment, self.epsilon_choice and self.epsilon_choice.relative_epsilon)
        rows, row_gradients = exchange.gradients(result.batches)
        of_loss = dict(zip(self.shared_of_loss, result.shared, strict=True))
        terms = dict(zip(TOWERS, result.terms.tolist(), strict=True))
        return OuterGradient(terms, rows, row_gradients, {LOG_RATES: result.rates * rates} | of_loss)

    def state(self) -> dict[str, Any]:
        """The choices at the start, and the errors of differences since."""
        state: dict[str, Any] = {}
        if self.paced:
            state["starts"] = dict(zip(TOWERS, self.paced, strict=True))
        if self.epsilon_choice:
            state["difference_check"] = self.epsilon_choice._asdict() | {"later": self.differences[1:]}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        if starts := state.get("starts"):
            self._take_starts((starts["image"], starts["text"]))
        if check := state.get("difference_check"):
            self.epsilon_choice = EpsilonChoice(check["relative_epsilon"], check["error"], check["against"])
            self.differences = [(0, check["error"]), *((at, error) for at, error in check["later"])]

    def figures(self) -> dict[str, Any]:
        return {"difference_error": self.differences[-1][1]} if self.differences else {}

    def _exchange(self, drawn: Draw, pairs: SyntheticPairs, graph_limit: int) -> BatchExchange:
        ranks = self.context.ranks
        parts = [drawn.part(rank, ranks.world_size) for rank in range(ranks.world_size)]
        pairs, tower = self.inputs.of(pairs)
        return BatchExchange(ranks, tower, pairs, self.context.total, parts, graph_limit)

    def _segment(self, step: int, drawn: Draw, exchange: BatchExchange, rates: Tensor, pairs: SyntheticPairs) -> Segment:
        start, target = self.states.at(drawn.expert, *self._ends(drawn))
        return Segment(
            start,
            distance_to(target, start, self.unrolling.towers, self.context.ranks),
            rates,
            exchange.batches,
            [pairs.shared[name] for name in self.shared_of_loss],
            derive_seed(self.seed, "dropout", step),
            exchange.fixed,
            blend.of_step(derive_seed(self.seed, "blend", step)) if (blend := self.settings.blend) else None,
        )

    def _ends(self, drawn: Draw) -> tuple[Epochs, Epochs]:
        """Of the stretch that is matched."""
        image, text = drawn.starts
        return drawn.starts, (image + self.settings.expert_epochs, text + self.settings.expert_epochs)

    def _find_starts(self) -> None:
        """From the experts that the run starts with."""
        settings, experts = self.settings, range(self.settings.first_experts(self.experts.count))
        found = starts_by_pace(self.snapshots, experts, settings.starts(), settings.expert_epochs, self.context.ranks)
        self._take_starts(found)
        self.context.report(Notice(f"start epochs of the image tower {found[0]}, of the text tower {found[1]}"))

    def _take_starts(self, found: tuple[list[int], list[int]]) -> None:
        self.paced = found
        self.sampler = replace(self.sampler, starts=list(product(*found)))

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
