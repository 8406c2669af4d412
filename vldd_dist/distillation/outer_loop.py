"""The outer loop: update the synthetic pairs by gradient steps of an objective, validate, checkpoint.

The whole state of the loop is the pairs, their running average, the outer optimiser, the best validated pairs, the curves and
the objective's own state, and every random draw of outer step n derives from (seed, n). So a distillation that resumes from a
checkpoint ends in the same bits. With several ranks each runs this loop on its own rows of the pairs; everything else is the
same on all.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.distillation.averaging import RunningAverage
from vldd_dist.distillation.checkpoints import LoopState, OuterLoopCheckpoints
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.facts import DistillationFacts
from vldd_dist.distillation.history import History
from vldd_dist.distillation.objectives.outer_problem import OuterGradient, OuterProblem
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.errors import ConfigError, DivergenceError, InterruptedRun
from vldd_dist.events import Notice, Progress
from vldd_dist.store.async_writer import AsyncWriter

# Pairs -> mean of the six validation recalls of students trained on them, in percent. Raises DivergenceError if all diverge.
Validate = Callable[[SyntheticPairs], float]

# Outer steps over which the loss is averaged before it is compared with the objective's `max_loss`.
DIVERGENCE_WINDOW = 20


class Distillation:
    """One distillation. `run()` takes it from the newest checkpoint, or from the start, to the last outer step.

    Args:
        problem: the outer problem of the objective in the context's settings.
        pairs: this rank's rows at their start, on the student's device; updated in place.
        rates: the outer learning rate of each tensor of the pairs, by name.
        validate: measures the pairs to find the best ones; all ranks call it together, and must get the same answer.
        writer: stores the checkpoints; None: there are none.
        should_stop: asked before each outer step; must answer the same on all ranks.

    Attributes:
        best: this rank's rows of the best validated pairs, which are to be published after `run`.
    """

    def __init__(
        self,
        problem: OuterProblem,
        pairs: SyntheticPairs,
        rates: Mapping[str, float],
        context: DistillationContext,
        *,
        validate: Validate,
        writer: UnitWriter | None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.problem, self.pairs, self.validate, self.should_stop = problem, pairs, validate, should_stop
        self.settings, self.report, self.choices = context.settings, context.report, context.choices
        self.ranks = context.ranks
        self.outer = OuterOptimiser(pairs, rates, self.settings)
        self.average = RunningAverage(pairs, self.settings.ema)
        self.checkpoints = OuterLoopCheckpoints(writer, context.ranks, context.total) if writer else None
        self.best = pairs.clone()
        self.history = History()

    def run(self) -> DistillationFacts:
        """Returns the facts of the distillation.

        Raises:
            DivergenceError: the outer loss is NaN, infinite or above the objective's `max_loss`; or `validate` raised it for
                the start.
            ConfigError: the objective's settings do not work, or no longer work, with this student; or it does not learn a
                tensor of the pairs that has a learning rate.
            InterruptedRun: `should_stop` asked it to stop; its state is stored.
            Exception: what `OuterProblem.awaited` returned; the state is stored. Run it again when that input exists.
        """
        first = self._restore()
        if first == 0:
            self.problem.begin(self.pairs)
            self._validate(0)
        # Checkpoints are uploaded in the background while the next outer steps run.
        with AsyncWriter() as uploads:
            reason_to_end = self._run_outer_steps(first, uploads)
        if reason_to_end is not None:
            raise reason_to_end
        best_step, best_recall = self.history.best_validation()
        if best_step == 0:
            self.report(Notice("no outer step improved the validation recall, so the result is what it started from"))
        return DistillationFacts(
            best_step=best_step,
            best_validation=best_recall,
            validation=self.history.validation,
            start=self.pairs.start,
            objective=self.problem.facts(),
        )

    def _run_outer_steps(self, first: int, uploads: AsyncWriter) -> Exception | None:
        """Returns why it must end before its last outer step; None after the last."""
        settings, started = self.settings, time.monotonic()
        for step in range(first, settings.outer_steps):
            uploads.check()
            if (reason := self._reason_to_end(step)) is not None:
                if step > first:
                    self._checkpoint(step, uploads)
                return reason
            if step + 1 < settings.outer_steps:
                self.problem.prefetch(step + 1)
            self.outer_step(step)
            done = step + 1
            if done % settings.validate_every == 0 or done == settings.outer_steps:
                self._validate(done)
            if done % settings.checkpoint_every == 0:
                self._checkpoint(done, uploads)
            progress = Progress(
                done=done,
                total=settings.outer_steps,
                loss=self.history.losses[-1],
                steps_per_second=(done - first) / (time.monotonic() - started),
                validation=self.history.validation[-1][1],
            )
            self.report(replace(progress, **self.problem.figures()))
        return None

    def _reason_to_end(self, step: int) -> Exception | None:
        if self.should_stop():
            return InterruptedRun(f"stopped after {step} outer steps, which are stored")
        return self.problem.awaited(step)

    def outer_step(self, step: int) -> None:
        """Move the pairs once; `step` counts from 0."""
        gradient = self.problem.gradient(step, self.pairs)
        # Numbers, also where an objective returned tensors, which would keep the graph of each step.
        terms = {name: float(value) for name, value in gradient.terms.items()}
        if step == 0:
            self._refuse_terms_of_a_rank(terms)
        self._refuse_divergence(step, sum(terms.values()))
        self._refuse_missing(gradient)
        self.outer.step(gradient.rows, gradient.row_gradients, gradient.shared_gradients)
        self.average.update(step + 1)
        self.history.add(terms, self.pairs.shared)

    def _refuse_terms_of_a_rank(self, terms: Mapping[str, float]) -> None:
        """Refuse an outer loss of one rank's pairs or shards, whose gradient is not that of the loss over all ranks."""
        of_ranks = self.ranks.all_gather(dict(terms))
        first = torch.tensor(list(of_ranks[0].values()), dtype=torch.float64)
        for rank, others in enumerate(of_ranks):
            values = torch.tensor(list(others.values()), dtype=torch.float64)
            # Different kinds of machines may round differently.
            same = list(others) == list(of_ranks[0]) and torch.allclose(values, first, rtol=1e-3, atol=1e-6, equal_nan=True)
            if not same:
                raise AssertionError(
                    f"the objective {self.settings.objective.name} returned the terms {of_ranks[0]} on rank 0 and {others} on "
                    f"rank {rank}: every rank must return the sum over all ranks: use `context.ranks.sum_of_parts` for parts "
                    "that depend on this rank's tensors, `sum_in_place` for constants; or set distill.workers to 1"
                )

    def _refuse_missing(self, gradient: OuterGradient) -> None:
        """Refuse a gradient without a tensor that would be published as learned."""
        learned = self.pairs.learned(self.pairs.rows | self.pairs.shared).keys()
        if missing := sorted(learned - gradient.row_gradients.keys() - gradient.shared_gradients.keys()):
            name, objective = missing[0], self.settings.objective
            if name in objective.learned_shared():
                mend = "return its gradient in `shared_gradients`, or give it the learning rate 0 in `learned_shared`"
            elif name in self.settings.outer_rates():
                mend = f"set distill.lr_{name} to 0"
            else:
                mend = "choose a model.loss that does not learn it"
            raise ConfigError(f"distill.objective: {objective.name} does not learn {name}: {mend}")

    def _refuse_divergence(self, step: int, loss: float) -> None:
        objective = self.settings.objective
        if not math.isfinite(loss):
            raise DivergenceError(f"the outer loss is {loss} at outer step {step}: {objective.advice}")
        recent = [*self.history.losses[1 - DIVERGENCE_WINDOW :], loss]
        mean = sum(recent) / len(recent)
        if objective.max_loss is not None and len(recent) == DIVERGENCE_WINDOW and mean > objective.max_loss:
            raise DivergenceError(
                f"the outer loss averages {mean:.3g} over the {DIVERGENCE_WINDOW} outer steps up to {step}, "
                f"more than distill.objective.max_loss ({objective.max_loss:g}): {objective.advice}"
            )

    def _validate(self, step: int) -> None:
        try:
            recall = self.validate(self.average.value)
        except DivergenceError:
            if step == 0:
                # Nothing was learned yet, so the cause is the evaluation's learning rates, as the error says.
                raise
            # The best pairs so far are kept: the loss ends a distillation whose pairs have diverged for good.
            recall = 0.0
            self.report(
                Notice(
                    f"after {step} outer steps, students diverge on the pairs at every learning rate of the evaluation, which "
                    f"counts as a recall of 0; if it lasts, {self.settings.objective.advice}"
                )
            )
        self.history.validation.append((step, recall))
        if self.history.best_validation()[0] == step:
            self.best.copy_(self.average.value)

    def _checkpoint(self, step: int, uploads: AsyncWriter) -> None:
        if self.checkpoints is None:
            return
        facts = {"validation": list(self.history.validation), "objective": self.problem.state(), "choices": self.choices}
        self.checkpoints.save(step, self._state(), self.history.as_tensors(), facts, uploads)

    def _state(self) -> LoopState:
        return LoopState(self.pairs, self.best, self.outer, self.average.kept)

    def _restore(self) -> int:
        """Returns the number of outer steps done; 0 without a checkpoint."""
        checkpoint = self.checkpoints.restore(self._state()) if self.checkpoints else None
        if checkpoint is None:
            return 0
        step, curves, facts = checkpoint
        self.history = History.from_tensors(curves, facts["validation"])
        self.problem.restore(facts["objective"])
        return step
