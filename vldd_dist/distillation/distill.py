"""The outer loop: draw an expert and a start, unroll the student, move the synthetic pairs (Wu et al. 2308.07545, 3.3).

The loop's whole state is the pairs, the outer optimiser, the best validated pairs and the curves; every draw of outer
step n derives from (seed, n). A checkpoint of that state resumes to the same bits.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldd_dist.distillation.matching import matching_loss
from vldd_dist.distillation.pairs import OuterOptimiser, SyntheticPairs
from vldd_dist.distillation.student import Student
from vldd_dist.distillation.unroll import Params, disagreement, scatter_to_pairs, unrolled_gradient
from vldd_dist.errors import ConfigError, DivergenceError
from vldd_dist.models.attention import unfused_attention
from vldd_dist.models.inputs import model_inputs, pixel_gradients
from vldd_dist.seeding import derive_seed, numpy_generator
from vldd_dist.settings import DistillSettings
from vldd_dist.storage import tensors
from vldd_dist.storage.background import Background
from vldd_dist.storage.trajectories import Trajectory
from vldd_dist.storage.units import Checkpoint, UnitWriter

Report = Callable[[dict[str, Any]], None]
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
    """

    losses: list[tuple[float, float, float]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Draw:
    """What one outer step works on, a function of (seed, outer step) alone.

    Attributes:
        expert: index of the expert.
        start: epoch of the snapshot the student starts from.
        batches: (B,) int64 indices of pairs for each inner step.
        used: (U,) the pairs in any of them, ascending: of the others an outer step makes nothing.
        places: the batches as indices into `used`.
    """

    expert: int
    start: int
    batches: list[Tensor]

    @cached_property
    def used(self) -> Tensor:
        return torch.unique(torch.cat(self.batches))

    @property
    def places(self) -> list[Tensor]:
        return [torch.searchsorted(self.used, batch) for batch in self.batches]


def draw(settings: DistillSettings, experts: int, pairs: int, seed: int, outer_step: int) -> Draw:
    """Inner batches run through permutations of all pairs, so that each is used equally often."""
    generator = numpy_generator(seed, "outer", outer_step)
    expert, start = int(generator.integers(experts)), int(generator.integers(settings.max_start_epoch + 1))
    size = min(settings.batch_size or pairs, pairs)
    needed = settings.inner_steps * size
    order = np.concatenate([generator.permutation(pairs) for _ in range(math.ceil(needed / pairs))])[:needed]
    return Draw(expert, start, list(torch.from_numpy(order).split(size)))


def _rows_of(whole: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Zeros like `whole`, but in these rows."""
    dense = torch.zeros_like(whole)
    dense[rows] = values
    return dense


class Distillation:
    """One run: `run()` goes from the newest checkpoint, or the start, to the last outer step.

    Args:
        pairs: at their start, on the device of the student.
        trajectories: of the experts, in order.
        validate: what "best" means.
    """

    def __init__(
        self,
        student: Student,
        pairs: SyntheticPairs,
        trajectories: Sequence[Trajectory],
        settings: DistillSettings,
        *,
        seed: int,
        validate: Validate,
        writer: UnitWriter,
        report: Report,
    ) -> None:
        self.student, self.pairs, self.trajectories, self.settings = student, pairs, trajectories, settings
        self.seed, self.validate, self.writer, self.report = seed, validate, writer, report
        self.outer = OuterOptimiser(pairs, settings)
        self.start = pairs.clone()
        self.best = pairs.clone()
        self.history = History()
        self.gradient_error: float | None = None

    def run(self) -> dict[str, Any]:
        """Returns the facts of the run; `best` then holds the pairs to publish.

        Raises:
            DivergenceError: the matching loss is NaN, infinite or beyond `max_loss`.
            ConfigError: finite differences do not agree with `exact` on this student.
        """
        checkpoint = self.writer.latest_checkpoint()
        first = self._restore(checkpoint) if checkpoint else 0
        settings = self.settings
        if settings.gradient == "finite_difference":
            self._check_gradient(settings.check_tolerance)
        if first == 0:
            self._validate(0)
        # A checkpoint's upload runs beside the outer steps that follow it.
        with Background() as uploads:
            self._run_outer_steps(first, uploads)
        best_step, best_recall = self._best_validation()
        return {
            "best_step": best_step,
            "best_validation": best_recall,
            "validation": self.history.validation,
            "start": self.pairs.start,
            "gradient_error": self.gradient_error,
        }

    def _run_outer_steps(self, first: int, uploads: Background) -> None:
        settings, started = self.settings, time.monotonic()
        for step in range(first, settings.outer_steps):
            if step + 1 < settings.outer_steps:
                self._prefetch(step + 1)
            self._outer_step(step)
            done = step + 1
            if done % settings.validate_every == 0 or done == settings.outer_steps:
                self._validate(done)
            if done % settings.checkpoint_every == 0:
                self._checkpoint(done, uploads)
            self.report(
                {
                    "done": done,
                    "total": settings.outer_steps,
                    "loss": self.history.losses[-1][0],
                    "steps_per_second": (done - first) / (time.monotonic() - started),
                    "validation": self.history.validation[-1][1],
                }
            )

    def _draw(self, step: int) -> Draw:
        return draw(self.settings, len(self.trajectories), len(self.pairs), self.seed, step)

    def _prefetch(self, step: int) -> None:
        """Begin to read what an outer step to come will want."""
        drawn = self._draw(step)
        for epoch in (drawn.start, drawn.start + self.settings.expert_epochs):
            self.trajectories[drawn.expert].prefetch(epoch)

    def _snapshot(self, expert: int, epoch: int) -> Params:
        trajectory = self.trajectories[expert]
        theta = self.student.view.from_dicts(trajectory.snapshot(epoch, "image"), trajectory.snapshot(epoch, "text"))
        return tuple(tensor.to(self.pairs.images.device) for tensor in theta)

    def _batches(self, drawn: Draw) -> list[tuple[Tensor, ...]]:
        inputs, texts = model_inputs(self.student.model, self.pairs.images[drawn.used]), self.pairs.texts[drawn.used]
        return [(inputs[places], texts[places]) for places in drawn.places]

    def _outer_step(self, step: int) -> None:
        settings, student, pairs = self.settings, self.student, self.pairs
        drawn = self._draw(step)
        student.seed = derive_seed(self.seed, "dropout", step)
        rates = pairs.rates
        if not bool((rates.isfinite() & (rates > 0)).all()):
            raise DivergenceError(f"the inner learning rates are {rates.tolist()} at outer step {step}: {ADVICE}")
        start = self._snapshot(drawn.expert, drawn.start)
        target = self._snapshot(drawn.expert, drawn.start + settings.expert_epochs)

        def outer(theta: Params) -> Tensor:
            return matching_loss(theta, start, target, student.towers)

        result = unrolled_gradient(
            settings.gradient, student, start, pairs.rates, self._batches(drawn), outer, settings.difference
        )
        image_loss, text_loss = result.terms.tolist()
        self._refuse_divergence(step, image_loss + text_loss)
        inputs, texts = scatter_to_pairs(result.batches, drawn.places, len(drawn.used))
        images = pixel_gradients(student.model, pairs.images[drawn.used], inputs)
        self.outer.step(_rows_of(pairs.images, drawn.used, images), _rows_of(pairs.texts, drawn.used, texts), result.rates)
        self.history.losses.append((image_loss + text_loss, image_loss, text_loss))
        image_rate, text_rate = pairs.rates.tolist()
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

    def _check_gradient(self, tolerance: float) -> None:
        drawn = self._draw(0)
        start = self._snapshot(drawn.expert, drawn.start)
        target = self._snapshot(drawn.expert, drawn.start + self.settings.expert_epochs)
        direction = tuple(b - a for a, b in zip(start, target, strict=True))
        difference, batch = self.settings.difference, self._batches(drawn)[0]
        with unfused_attention(self.student.model):
            error = disagreement(self.student, start, batch, direction, difference)
        if not error <= tolerance:
            raise ConfigError(
                f"distill.gradient: finite_difference is off by {error:.2g} against exact on one inner step, more than "
                f"distill.check_tolerance ({tolerance:g}): differences are of no use for networks with "
                "ReLU, nor where the loss bends this sharply; "
                "set distill.gradient: exact"
            )
        self.gradient_error = error

    def _validate(self, step: int) -> None:
        recall = self.validate(self.pairs)
        if not self.history.validation or recall > self._best_validation()[1]:
            self.best = self.pairs.clone()
        self.history.validation.append((step, recall))

    def _best_validation(self) -> tuple[int, float]:
        return max(self.history.validation, key=lambda entry: entry[1])

    def _checkpoint(self, step: int, uploads: Background) -> None:
        def packed(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
            return {f"{prefix}/{name}": tensor for name, tensor in named.items()}

        state = (
            packed("pairs", self.pairs.as_tensors())
            | packed("best", self.best.as_tensors())
            | packed("outer", self.outer.as_tensors())
            | packed("history", self.curves())
        )
        facts = {"validation": list(self.history.validation), "start": self.pairs.start}
        objects = {"state.safetensors": tensors.encode(state)}
        uploads.submit(lambda: self.writer.save_checkpoint(step, objects, facts))

    def curves(self) -> dict[str, Tensor]:
        """losses (S, 3) and rates (S, 2), float64, one row an outer step."""
        return {
            "losses": torch.tensor(self.history.losses, dtype=torch.float64).reshape(-1, 3),
            "rates": torch.tensor(self.history.rates, dtype=torch.float64).reshape(-1, 2),
        }

    def _restore(self, checkpoint: Checkpoint) -> int:
        state = tensors.decode(checkpoint.read("state.safetensors"), f"checkpoint of outer step {checkpoint.step}")

        def unpacked(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(f"{prefix}/"): t for name, t in state.items() if name.startswith(f"{prefix}/")}

        for name, tensor in self.pairs.as_tensors().items():
            tensor.copy_(unpacked("pairs")[name])
        device = self.pairs.images.device
        self.best = SyntheticPairs(**{name: t.to(device) for name, t in unpacked("best").items()}, start=self.pairs.start)
        self.outer.load_tensors(unpacked("outer"))
        curves = unpacked("history")
        self.history = History(
            [(total, image, text) for total, image, text in curves["losses"].tolist()],
            [(image, text) for image, text in curves["rates"].tolist()],
            [(step, recall) for step, recall in checkpoint.facts["validation"]],
        )
        return checkpoint.step
