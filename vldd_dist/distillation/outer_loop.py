"""The outer loop: draw an expert and a start, unroll the student, move the synthetic pairs (Wu et al. 2308.07545, 3.3).

The loop's whole state is the pairs, the outer optimiser, the best validated pairs and the curves; every draw of outer
step n derives from (seed, n). A checkpoint of that state resumes to the same bits. Of several ranks each runs this loop on its
rows of the pairs; what is not a row is alike on all.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.config.distillation import DistillSettings
from vldd_dist.distillation.checkpoints import LoopState, RunCheckpoints
from vldd_dist.distillation.experts import ExpertAwaited, Experts
from vldd_dist.distillation.kinks import refuse_kinked_student
from vldd_dist.distillation.outer_optimiser import OuterOptimiser
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.sampling import Draw, draw, expert_pool
from vldd_dist.distillation.unroll import Params, StepChoice, scatter_to_pairs
from vldd_dist.distillation.unrolling import Unrolling
from vldd_dist.errors import ConfigError, DivergenceError, InterruptedRun
from vldd_dist.events import Notice, Progress, Report
from vldd_dist.models.inputs import model_inputs, pixel_gradients
from vldd_dist.seeding import derive_seed
from vldd_dist.sharding.exchange import Exchange
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.async_writer import AsyncWriter

# Mean of the six validation recalls of students trained on the pairs, percent.
Validate = Callable[[SyntheticPairs], float]

DIVERGENCE_WINDOW = 20
ADVICE = "lower distill.lr_images, distill.lr_texts, distill.lr_rates or the inner learning rates"


@dataclass
class History:
    """The curves of a run.

    Attributes:
        losses: (total, image, text) matching loss of each outer step.
        rates: (image, text) inner learning rates after each outer step.
        validation: (outer step, mean recall in percent) at each validation.
        differences: (outer step, relative error) at each check of finite differences.
    """

    losses: list[tuple[float, float, float]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    differences: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def from_tensors(cls, curves: dict[str, Tensor], validation: list[tuple[int, float]]) -> "History":
        """What `as_tensors` gave."""
        return cls(
            [(total, image, text) for total, image, text in curves["losses"].tolist()],
            [(image, text) for image, text in curves["rates"].tolist()],
            [(step, recall) for step, recall in validation],
        )

    def as_tensors(self) -> dict[str, Tensor]:
        """losses (S, 3) and rates (S, 2), float64, one row an outer step."""
        return {
            "losses": torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 3),
            "rates": torch.tensor(self.rates, dtype=torch.float64).reshape(-1, 2),
        }


class Distillation:
    """One run: `run()` goes from the newest checkpoint, or the start, to the last outer step.

    Args:
        pairs: this rank's rows of the `total` at their start, on the device of the student.
        experts: their trajectories read the unrolling's part; the first `min_experts` are committed.
        validate: what "best" means; called by all ranks at once.
        report: called by all ranks.
        should_stop: asked before each outer step; all ranks must be told the same.

    Attributes:
        best: this rank's rows of the pairs to publish, after `run`.
    """

    def __init__(
        self,
        unrolling: Unrolling,
        pairs: SyntheticPairs,
        total: int,
        experts: Experts,
        settings: DistillSettings,
        *,
        seed: int,
        validate: Validate,
        writer: UnitWriter,
        report: Report,
        ranks: Ranks,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.should_stop = should_stop
        self.unrolling, self.pairs, self.total, self.experts = unrolling, pairs, total, experts
        self.settings, self.seed, self.validate, self.report, self.ranks = settings, seed, validate, report, ranks
        self.outer = OuterOptimiser(pairs, settings)
        self.checkpoints = RunCheckpoints(writer, ranks, total)
        self.best = pairs.clone()
        self.history = History()
        self.step_choice: StepChoice | None = None
        # So many of the first experts are known to be committed.
        self._present = 0

    def run(self) -> dict[str, Any]:
        """Returns the facts of the run.

        Raises:
            DivergenceError: the matching loss is NaN, infinite or beyond `max_loss`.
            ConfigError: finite differences do not agree, or agree no longer, with `exact` on this student.
            ExpertAwaited: run it again when that expert is committed.
            InterruptedRun: it was asked to stop; like the former, it has stored where it is.
        """
        first = self._restore()
        if first == 0:
            if self.settings.gradient == "finite_difference":
                refuse_kinked_student(self.unrolling.model)
                self._check_differences(0)
            self._validate(0)
        # A checkpoint's upload runs beside the outer steps that follow it.
        with AsyncWriter() as uploads:
            ending = self._run_outer_steps(first, uploads)
        if ending is not None:
            raise ending
        best_step, best_recall = self._best_validation()
        return {
            "best_step": best_step,
            "best_validation": best_recall,
            "validation": self.history.validation,
            "start": self.pairs.start,
            "difference_check": self._difference_check(),
        }

    def _run_outer_steps(self, first: int, uploads: AsyncWriter) -> ExpertAwaited | InterruptedRun | None:
        """Returns why the steps had to end; none after the last."""
        settings, started = self.settings, time.monotonic()
        for step in range(first, settings.outer_steps):
            if (ending := self._must_end(step)) is not None:
                if step > first:
                    self._checkpoint(step, uploads)
                return ending
            if step + 1 < settings.outer_steps:
                self._prefetch(step + 1)
            if self.step_choice and step and step % settings.check_every == 0:
                self._check_differences(step)
            self.outer_step(step)
            done = step + 1
            if done % settings.validate_every == 0 or done == settings.outer_steps:
                self._validate(done)
            if done % settings.checkpoint_every == 0:
                self._checkpoint(done, uploads)
            self.report(
                Progress(
                    done=done,
                    total=settings.outer_steps,
                    loss=self.history.losses[-1][0],
                    steps_per_second=(done - first) / (time.monotonic() - started),
                    validation=self.history.validation[-1][1],
                    difference_error=self.history.differences[-1][1] if self.history.differences else None,
                )
            )
        return None

    def _must_end(self, step: int) -> ExpertAwaited | InterruptedRun | None:
        if self.should_stop():
            return InterruptedRun(f"stopped after {step} outer steps, which are stored")
        # The first expert of this step's pool that is not committed.
        pool = expert_pool(self.settings, self.experts.count, step)
        if self._present < pool:
            # One rank looks: all must see the same.
            missing = self.ranks.broadcast(
                self.experts.first_missing(range(self._present, pool)) if self.ranks.is_main else None
            )
            if missing is not None:
                return ExpertAwaited(missing)
            self._present = pool
        return None

    def _draw(self, step: int) -> Draw:
        return draw(self.settings, self.experts.count, self.total, self.seed, step)

    def _prefetch(self, step: int) -> None:
        drawn = self._draw(step)
        if drawn.expert < self._present:
            for epoch in (drawn.start, drawn.start + self.settings.expert_epochs):
                self.experts[drawn.expert].prefetch(epoch)

    def _snapshot(self, expert: int, epoch: int) -> Params:
        trajectory = self.experts[expert]
        return self.unrolling.theta(trajectory.snapshot(epoch, "image"), trajectory.snapshot(epoch, "text"))

    def _ends(self, drawn: Draw) -> tuple[Params, Params]:
        """The snapshots where the student starts, and where it is to end."""
        start, target = drawn.start, drawn.start + self.settings.expert_epochs
        return self._snapshot(drawn.expert, start), self._snapshot(drawn.expert, target)

    def outer_step(self, step: int) -> None:
        """Move the pairs once; `step` counts from 0."""
        drawn = self._draw(step)
        rates = self.pairs.rates
        if not bool((rates.isfinite() & (rates > 0)).all()):
            raise DivergenceError(f"the inner learning rates are {rates.tolist()} at outer step {step}: {ADVICE}")
        start, target = self._ends(drawn)
        work = _Work(self, drawn)
        seed, relative_step = derive_seed(self.seed, "dropout", step), self.step_choice and self.step_choice.relative_step
        result = self.unrolling.gradient(start, target, rates, work.batches, seed, relative_step)
        image_loss, text_loss = result.terms.tolist()
        self._refuse_divergence(step, image_loss + text_loss)
        rows, images, texts = work.gradients(result.batches)
        self.outer.step(rows, images, texts, result.rates)
        self.history.losses.append((image_loss + text_loss, image_loss, text_loss))
        image_rate, text_rate = self.pairs.rates.tolist()
        self.history.rates.append((image_rate, text_rate))

    def _refuse_divergence(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergenceError(f"the matching loss is {loss} at outer step {step}: {ADVICE}")
        recent = [total for total, _, _ in self.history.losses[1 - DIVERGENCE_WINDOW :]] + [loss]
        mean = sum(recent) / len(recent)
        if len(recent) == DIVERGENCE_WINDOW and mean > self.settings.max_loss:
            raise DivergenceError(
                f"the matching loss averages {mean:.3g} over the {DIVERGENCE_WINDOW} outer steps up to {step}, "
                f"more than distill.max_loss ({self.settings.max_loss:g}): {ADVICE}"
            )

    def _check_differences(self, step: int) -> None:
        """Choose the step of finite differences at outer step 0; later, see that it still serves."""
        drawn, tolerance = self._draw(step), self.settings.check_tolerance
        known = self.step_choice and self.step_choice.relative_step
        seed, work = derive_seed(self.seed, "dropout", step), _Work(self, drawn)
        found = self.unrolling.check_differences(*self._ends(drawn), self.pairs.rates, work.batches, seed, known)
        if not found.error <= tolerance:
            raise ConfigError(
                f"distill.gradient: at outer step {step} finite_difference is off by {found.error:.2g} against {found.against} "
                f"over {self.settings.inner_steps} inner steps, more than distill.check_tolerance ({tolerance:g}): differences "
                "are of no use for networks with kinks, nor where the loss bends this sharply; set distill.gradient: exact"
            )
        self.history.differences.append((step, found.error))
        if self.step_choice is None:
            self.step_choice = found
            self.report(Notice(f"finite differences are off by {found.error:.1e} against {found.against} over an unroll"))

    def _difference_check(self) -> dict[str, Any] | None:
        """For facts: the choice at the start, and the errors since."""
        return self.step_choice and self.step_choice._asdict() | {"later": self.history.differences[1:]}

    def _validate(self, step: int) -> None:
        recall = self.validate(self.pairs)
        if not self.history.validation or recall > self._best_validation()[1]:
            self.best.copy_(self.pairs)
        self.history.validation.append((step, recall))

    def _best_validation(self) -> tuple[int, float]:
        return max(self.history.validation, key=lambda entry: entry[1])

    def _checkpoint(self, step: int, uploads: AsyncWriter) -> None:
        facts = {
            "validation": list(self.history.validation),
            "difference_check": self._difference_check(),
        }
        self.checkpoints.save(step, LoopState(self.pairs, self.best, self.outer), self.history.as_tensors(), facts, uploads)

    def _restore(self) -> int:
        found = self.checkpoints.restore(LoopState(self.pairs, self.best, self.outer))
        if found is None:
            return 0
        step, curves, facts = found
        self.history = History.from_tensors(curves, facts["validation"])
        if check := facts["difference_check"]:
            self.step_choice = StepChoice(check["relative_step"], check["error"], check["against"])
            self.history.differences = [(0, check["error"]), *((at, error) for at, error in check["later"])]
        return step


class _Work:
    """A rank's part of an outer step: its rows of the inner batches come from their owners, and their gradients go back."""

    def __init__(self, run: Distillation, drawn: Draw) -> None:
        ranks, pairs = run.ranks, run.pairs
        shares = [drawn.share(rank, ranks.world_size) for rank in range(ranks.world_size)]
        self.model, self.share = run.unrolling.model, shares[ranks.rank]
        self.exchange = Exchange(ranks, run.total, [share.used for share in shares])
        self.images, texts = self.exchange.to_users(pairs.images), self.exchange.to_users(pairs.texts)
        # A frozen backbone's features, made once for a pair and outer step; with a backbone that moves the pictures themselves.
        inputs = model_inputs(self.model, self.images)
        self.batches: list[Params] = [(inputs[places], texts[places]) for places in self.share.places]

    def gradients(self, batches: Sequence[Params]) -> tuple[Tensor, Tensor, Tensor]:
        """From the gradients of the batches: (rows (K,) of the rank's pairs, their images' gradients, their texts')."""
        inputs, texts = scatter_to_pairs(batches, self.share.places, len(self.share.used))
        rows, images = self.exchange.to_owners(pixel_gradients(self.model, self.images, inputs))
        return rows, images, self.exchange.to_owners(texts)[1]
