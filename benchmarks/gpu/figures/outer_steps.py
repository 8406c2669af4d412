"""Duration and memory of an outer step with each gradient, one after the other in one process."""

import statistics
import tempfile
from functools import partial

from benchmarks.gpu.distilling import distillation_settings, distilling, new_model
from benchmarks.gpu.notes import Cell, Notes
from benchmarks.gpu.place import Place, rounding
from benchmarks.gpu.students import TEXT_DIM, image_size, model_flops, settings_of
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.model import ModelSettings
from vldd_dist.cost_model.flop_trace import FlopTrace
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.pipeline.out_of_memory import is_out_of_memory
from vldd_dist.store.store import Store

# Row -> gradient, difference, precision; the most important first. Ratios are relative to the first row. Finite differences are
# always computed in fp32, and refuse bf16.
ROWS = {
    "exact": ("exact", "central", "tf32"),
    "central differences": ("finite_difference", "central", "torch"),
    "exact, as torch rounds": ("exact", "central", "torch"),
    "exact, bf16": ("exact", "central", "bf16"),
    "forward differences": ("finite_difference", "forward", "torch"),
    "tesla": ("tesla", "central", "tf32"),
    "full": ("full", "central", "tf32"),
}
REPEATS = 3
# A step that takes longer is measured once.
LONG = 3.0


def run(place: Place, notes: Notes, student: str, batch: int, steps: int) -> None:
    """The package's outer step: reading snapshots from the host's memory, the unroll, the outer optimiser."""
    if place.tiny:
        batch, steps = 4, 2
    settings = settings_of(student, place)
    trace = MemoryTrace(model_flops(settings), TEXT_DIM, image_size(place))
    first: tuple[float, float] | None = None
    for name, (gradient, difference, precision) in ROWS.items():
        cells: dict[str, Cell] = {"gradient": name, "precision": "fp32" if gradient == "finite_difference" else precision}
        objective = {"gradient": gradient, "difference": difference, "inner_steps": steps}
        distill = distillation_settings(
            image_size(place),
            TEXT_DIM,
            objective=objective,
            outer_steps=100,
            batch_size=batch,
            precision="bf16" if precision == "bf16" else "fp32",
        )
        try:
            seconds, peak = _measured(place, settings, distill, batch, precision)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            notes.row(**cells, said="out of memory")
            continue
        finally:
            place.free()
        first = first or (seconds, peak)
        flops = distill.objective.costs().step_flops(FlopTrace(trace), distill, batch)
        assert flops is not None
        # No rate for `tesla`: the count includes the products along the parameters, which it does not compute.
        rate = None if gradient == "tesla" else flops / seconds / 1e12
        sheet = place.data_sheet(precision)
        notes.row(
            **cells,
            seconds=seconds,
            time_ratio=seconds / first[0],
            peak_mib=peak / 2**20,
            memory_ratio=peak / first[1],
            tflop_per_second=rate,
            share_of_data_sheet=sheet and rate and rate / sheet,
        )


def _measured(
    place: Place, settings: ModelSettings, distill: DistillationSettings, batch: int, precision: str
) -> tuple[float, float]:
    """Seconds (the median after a first step, which loads kernels), and bytes in addition to the student and the pairs."""
    # A new model each time, because a gradient sets the attention kernels of its student.
    model = new_model(settings, TEXT_DIM, place.device)
    with (
        rounding(precision),
        tempfile.TemporaryDirectory() as folder,
        distilling(model, distill, batch, Store(folder)) as running,
    ):
        first = place.seconds(lambda: running.outer_step(0))
        repeats = 1 if place.tiny or first > LONG else REPEATS
        durations = [place.seconds(partial(running.outer_step, step)) for step in range(1, 1 + repeats)]
        return statistics.median(durations), float(place.peak_bytes(lambda: running.outer_step(1 + repeats)))
