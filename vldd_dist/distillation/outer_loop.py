"""The outer loop: move the synthetic pairs along the gradient of an objective, validate, checkpoint.

The loop's whole state is the pairs, their running average, the outer optimiser, the best validated pairs, the curves and what
the objective keeps; every draw of outer step n derives from (seed, n). A checkpoint of that state resumes to the same bits. Of
several ranks each runs this loop on its rows of the pairs; what is not a row is alike on all.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.distillation.averaging import RunningAverage
from vldd_dist.distillation.checkpoints import LoopState, RunCheckpoints
from vldd_dist.distillation.context import RunContext
from vldd_dist.distillation.history import History
from vldd_dist.distillation.objectives import OuterProblem
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.errors import DivergenceError, InterruptedRun
from vldd_dist.events import Progress
from vldd_dist.store.async_writer import AsyncWriter

# Mean of the six validation recalls of students trained on the pairs, percent.
Validate = Callable[[SyntheticPairs], float]

DIVERGENCE_WINDOW = 20


class Distillation:
    """One run: `run()` goes from the newest checkpoint, or the start, to the last outer step.

    Args:
        problem: of the objective in the context's settings.
        pairs: this rank's rows at their start, on the device of the student.
        rates: the outer learning rate of each of their tensors, by name.
        validate: what "best" means; called by all ranks at once.
        should_stop: asked before each outer step; all ranks must be told the same.

    Attributes:
        best: this rank's rows of the pairs to publish, after `run`.
    """

    def __init__(
        self,
        problem: OuterProblem,
        pairs: SyntheticPairs,
        rates: Mapping[str, float],
        context: RunContext,
        *,
        validate: Validate,
        writer: UnitWriter,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.problem, self.pairs, self.validate, self.should_stop = problem, pairs, validate, should_stop
        self.settings, self.report = context.settings, context.report
        self.outer = OuterOptimiser(pairs, rates, self.settings)
        self.average = RunningAverage(pairs, self.settings.ema)
        self.checkpoints = RunCheckpoints(writer, context.ranks, context.total)
        self.best = pairs.clone()
        self.history = History()

    def run(self) -> dict[str, Any]:
        """Returns the facts of the run.

        Raises:
            DivergenceError: the outer loss is NaN, infinite or beyond the objective's `max_loss`.
            ConfigError: the objective's settings do not serve, or serve no longer, on this student.
            InterruptedRun: it was asked to stop.
            Exception: what `OuterProblem.awaited` gave: run it again when that is there. Like the former, it has stored where
                it is.
        """
        first = self._restore()
        if first == 0:
            self.problem.begin(self.pairs)
            self._validate(0)
        # A checkpoint's upload runs beside the outer steps that follow it.
        with AsyncWriter() as uploads:
            ending = self._run_outer_steps(first, uploads)
        if ending is not None:
            raise ending
        best_step, best_recall = self.history.best_validation()
        return {
            "best_step": best_step,
            "best_validation": best_recall,
            "validation": self.history.validation,
            "start": self.pairs.start,
            "objective": self.problem.state(),
        }

    def _run_outer_steps(self, first: int, uploads: AsyncWriter) -> Exception | None:
        """Returns why the steps had to end; none after the last."""
        settings, started = self.settings, time.monotonic()
        for step in range(first, settings.outer_steps):
            if (ending := self._must_end(step)) is not None:
                if step > first:
                    self._checkpoint(step, uploads)
                return ending
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

    def _must_end(self, step: int) -> Exception | None:
        if self.should_stop():
            return InterruptedRun(f"stopped after {step} outer steps, which are stored")
        return self.problem.awaited(step)

    def outer_step(self, step: int) -> None:
        """Move the pairs once; `step` counts from 0."""
        found = self.problem.gradient(step, self.pairs)
        self._refuse_divergence(step, sum(found.terms.values()))
        self.outer.step(found.rows, found.row_gradients, found.shared_gradients)
        self.average.update(step + 1)
        self.history.add(found.terms, self.pairs.shared)

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
        recall = self.validate(self.average.value)
        if not self.history.validation or recall > self.history.best_validation()[1]:
            self.best.copy_(self.average.value)
        self.history.validation.append((step, recall))

    def _checkpoint(self, step: int, uploads: AsyncWriter) -> None:
        facts = {"validation": list(self.history.validation), "objective": self.problem.state()}
        self.checkpoints.save(step, self._state(), self.history.as_tensors(), facts, uploads)

    def _state(self) -> LoopState:
        return LoopState(self.pairs, self.best, self.outer, self.average.kept)

    def _restore(self) -> int:
        found = self.checkpoints.restore(self._state())
        if found is None:
            return 0
        step, curves, facts = found
        self.history = History.from_tensors(curves, facts["validation"])
        self.problem.restore(facts["objective"])
        return step
