"""Time, memory and error of the four gradients of the unroll: `python -m benchmarks.unroll [--quick]`.

Each gradient of each student runs in its own process with one thread; the repeats alternate between the gradients, so that
noise affects all equally. Time is the median of the repeats in CPU seconds. Memory is the growth of the resident set
while the gradient is computed for the first time, after the expert's steps, which load the kernels. The error is the relative
l2 error, compared with `full`, of the gradients of the pairs or of the rates, whichever is larger. The last line is one JSON
object; each figure is the worst over the students.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._measure import FreshProcess, cpu_seconds, peak_memory, print_json
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.student import Student
from vldd_dist.distillation.unroll import (
    DifferenceSettings,
    DoubleBackward,
    Tensors,
    Unroll,
    UnrollResult,
    unrolled_gradient,
)
from vldd_dist.models.dual_encoder import build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.plugins import GRADIENTS

STUDENTS: dict[str, dict[str, Any]] = {
    "test_vit": {"img_size": 64},
    "nf_regnet_b1": {},
    "nfnet_l0": {},
}
# Row of the table -> gradient and kind of finite difference.
METHODS = {
    "full": ("full", "central"),
    "tesla": ("tesla", "central"),
    "exact": ("exact", "central"),
    "fd_central": ("finite_difference", "central"),
    "fd_forward": ("finite_difference", "forward"),
}
IMAGE_SIZE, BATCH_SIZE, TEXT_DIM = 64, 8, 384
RATES = (0.01, 0.01)
# Steps of the expert whose final parameters are the student's target.
EXPERT_STEPS = 8
STEPS_COMPARED, STEPS_OF_GROWTH = 8, 16
MIB = 2**20


class Case:
    """A student with random weights, the final parameters of its expert, and its batches."""

    def __init__(self, model: str, steps: int) -> None:
        image = ImageTowerSettings(model=model, model_args=STUDENTS[model], weights="random")
        text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
        encoder = build(ModelSettings(image=image, text=text), TEXT_DIM, None, 0)
        self.student = Student(encoder, InfoNCE(), dropout=False, fused_attention=False)
        self.start: Tensors = self.student.view.read()
        self.derivatives = DoubleBackward(self.student)
        generator = torch.Generator().manual_seed(0)
        self.target = self.start
        for step in range(EXPERT_STEPS):
            gradient = self.derivatives.gradient(self.target, _batch(generator), step, last=False).theta
            parameters = zip(self.target, gradient, self.student.towers, strict=True)
            self.target = tuple(value - RATES[tower] * step_gradient for value, step_gradient, tower in parameters)
        self.batches = [_batch(generator) for _ in range(steps)]

    def gradient(self, method: str) -> UnrollResult:
        name, difference = METHODS[method]
        gradient = GRADIENTS.load(name)
        # As in a run, only second derivatives need attention without fused kernels.
        student = Student(self.student.model, InfoNCE(), dropout=False, fused_attention=gradient.first_order_only)
        unroll = Unroll(self.start, torch.tensor(RATES), self.batches, self._outer, self.student.towers)
        return unrolled_gradient(unroll, gradient, student, DifferenceSettings(difference))

    def _outer(self, theta: Tensors) -> Tensor:
        return matching_loss(theta, self.start, self.target, self.student.towers)


def _batch(generator: torch.Generator) -> Tensors:
    images = torch.randn(BATCH_SIZE, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return [images, torch.randn(BATCH_SIZE, TEXT_DIM, generator=generator)]


class FirstRun(NamedTuple):
    """Results of one run.

    Attributes:
        peak: peak memory, bytes.
        pairs, rates: gradients of the pairs and of the rates.
        theta, step_result: bytes of the trainable parameters, and of the gradients of one step's pairs.
    """

    peak: int
    pairs: np.ndarray
    rates: np.ndarray
    theta: int
    step_result: int


# The case of this process, which `_first_run` creates.
_case: Case


def _first_run(model: str, steps: int, method: str) -> FirstRun:
    global _case
    torch.set_num_threads(1)
    _case = Case(model, steps)
    result, peak = peak_memory(lambda: _case.gradient(method))
    pairs = torch.cat([gradient.flatten() for batch in result.batch_gradients for gradient in batch])
    theta = sum(tensor.nbytes for tensor in _case.start)
    return FirstRun(peak, pairs.numpy(), result.rate_gradients.numpy(), theta, pairs.nbytes // steps)


def _timed_run(method: str) -> float:
    return cpu_seconds(lambda: _case.gradient(method))


@dataclass
class Row:
    """One line of the table; ratios and error are relative to `full`."""

    model: str
    steps: int
    method: str
    first: FirstRun
    seconds: float
    time_ratio: float
    memory_ratio: float
    error: float


def compare(model: str, steps: int, repeats: int, methods: list[str]) -> list[Row]:
    """The rows of all gradients of one unroll, each measured in its own process."""
    with ExitStack() as stack:
        processes = {method: stack.enter_context(FreshProcess()) for method in methods}
        firsts = {method: process.run(_first_run, model, steps, method) for method, process in processes.items()}
        times: dict[str, list[float]] = {method: [] for method in methods}
        for _ in range(repeats):
            for method, process in processes.items():
                times[method].append(process.run(_timed_run, method))
    full, full_seconds = firsts["full"], statistics.median(times["full"])
    rows = []
    for method, first in firsts.items():
        seconds = statistics.median(times[method])
        error = max(_relative(first.pairs, full.pairs), _relative(first.rates, full.rates))
        ratios = seconds / full_seconds, first.peak / full.peak
        rows.append(Row(model, steps, method, first, seconds, *ratios, error))
    return rows


def _relative(actual: np.ndarray, expected: np.ndarray) -> float:
    difference = actual.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def snapshot_growth(row: Row) -> float:
    """Memory of a further inner step, without the gradients that it returns, as a multiple of the size of theta."""
    with FreshProcess() as process:
        longer = process.run(_first_run, row.model, STEPS_OF_GROWTH, row.method)
    per_step = (longer.peak - row.first.peak) / (STEPS_OF_GROWTH - row.steps)
    return (per_step - longer.step_result) / longer.theta


def show(rows: list[Row], console: Console) -> None:
    table = Table(title=f"{IMAGE_SIZE} px, batch {BATCH_SIZE}, one CPU thread; ratios to full")
    for heading in ("student", "steps", "gradient", "CPU s", "time", "MiB", "memory", "error"):
        table.add_column(heading, justify="left" if heading in ("student", "gradient") else "right")
    previous: tuple[str, int] | None = None
    for row in rows:
        if previous not in (None, (row.model, row.steps)):
            table.add_section()
        previous = row.model, row.steps
        measured = f"{row.seconds:.2f}", f"{row.time_ratio:.2f}", f"{row.first.peak / MIB:.0f}", f"{row.memory_ratio:.2f}"
        table.add_row(row.model, str(row.steps), row.method, *measured, f"{row.error:.1e}")
    console.print(table)


def figures(rows: list[Row]) -> dict[str, float]:
    """The figures of the last line: the worst over the students, with eight steps."""
    compared = [row for row in rows if row.steps == STEPS_COMPARED]

    def worst(method: str, of: Callable[[Row], float]) -> float:
        return max(of(row) for row in compared if row.method == method)

    return {
        "time_ratio_exact_T8": worst("exact", lambda row: row.time_ratio),
        "memory_ratio_exact_T8": worst("exact", lambda row: row.memory_ratio),
        "time_ratio_fd_central_T8": worst("fd_central", lambda row: row.time_ratio),
        "time_ratio_fd_forward_T8": worst("fd_forward", lambda row: row.time_ratio),
        "error_exact": worst("exact", lambda row: row.error),
        "error_fd_central": worst("fd_central", lambda row: row.error),
        "error_fd_forward": worst("fd_forward", lambda row: row.error),
        "snapshot_growth_ratio": worst("exact", snapshot_growth),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time, memory and error of the four gradients of the unroll.")
    parser.add_argument("--quick", action="store_true", help="two students, eight steps, two repeats: a few minutes")
    quick = parser.parse_args().quick
    models = list(STUDENTS)[:2] if quick else list(STUDENTS)
    console = Console(width=100)
    rows: list[Row] = []
    for model in models:
        for steps in (STEPS_COMPARED,) if quick else (2, 4, STEPS_COMPARED, 16):
            console.print(f"{model}, {steps} steps ...", style="dim")
            rows += compare(model, steps, 2 if quick else 3, list(METHODS))
    show(rows, console)
    print_json(figures(rows))


if __name__ == "__main__":
    main()
