"""A unit that runs out of memory ends with a one-sentence error, and keeps its checkpoint."""

from collections.abc import Callable

import pytest
import torch

from vldd_dist.artifacts.units import is_done
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatchingProblem
from vldd_dist.errors import DeviceMemoryError, DeviceOccupied
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.out_of_memory import naming_what_to_lower
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of
from vldd_dist.testing.experiments.tiny_units import digests

OF_CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.06 GiB is free. "
    "Process 1 has 78.04 GiB memory in use."
)


def test_an_outer_step_without_memory_names_the_settings_to_lower_and_keeps_its_checkpoint(
    finished: Store, without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (unit,) = without("distillation"), units_of(experiment(), "distillation")
    gradient, steps = TrajectoryMatchingProblem.gradient, []

    def failing(self: TrajectoryMatchingProblem, step: int, pairs: object) -> object:
        steps.append(step)
        if steps == [0, 1, 2, 3]:
            raise torch.OutOfMemoryError(OF_CUDA)
        return gradient(self, step, pairs)  # type: ignore[arg-type]

    monkeypatch.setattr(TrajectoryMatchingProblem, "gradient", failing)
    with pytest.raises(DeviceMemoryError) as raised:
        execute(unit.order(), store, lambda event: None)
    assert str(raised.value) == (
        f"{unit.label} ran out of memory (it asked for 2.50 GiB more, the GPU has 79.11 GiB): lower distill.batch_size or "
        "distill.objective.inner_steps (without inner steps: distill.tower_graph_mib or distill.objective.real_batch_size), "
        "for many pairs distill.pairs (or raise distill.workers), or "
        "run it on a device with more memory, where it resumes from its last checkpoint; `vldd run --plan` estimates what fits"
    )
    assert not is_done(store, unit.kind, unit.id)
    run(store, [unit])
    # A checkpoint was stored after two steps.
    assert steps == [0, 1, 2, 3, 2, 3, 4, 5]
    assert digests(store, unit) == digests(finished, unit)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_other_allocators_are_known(error: Exception) -> None:
    said = r"^dataset ran out of memory: lower data.train_images; `vldd run --plan` estimates"
    with pytest.raises(DeviceMemoryError, match=said), naming_what_to_lower(stage_of("dataset"), "dataset", 0):
        raise error


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"), naming_what_to_lower(stage_of("dataset"), "dataset", 0):
        raise RuntimeError("shapes do not fit")


GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "own", "gpus", "said"),
    [
        (GIB, 2 * GIB, 1, "expert 7: other processes hold 77.0 GiB of its GPU: end them"),
        (None, 0, 1, "expert 7: other processes hold all memory of its GPU: end them"),
        # The memory is its own, or that of a unit with which it shares the GPU.
        (GIB, 78 * GIB, 1, None),
        (GIB, 2 * GIB, 0.5, None),
    ],
)
def test_memory_that_other_processes_hold_is_not_the_fault_of_the_unit(
    free: int | None, own: int, gpus: float, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example a killed process that hangs in the driver. Another GPU may have room."""

    def mem_get_info() -> tuple[int, int]:
        if free is None:
            raise RuntimeError("CUDA error: out of memory")
        return free, 80 * GIB

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: own)
    expected = pytest.raises(DeviceOccupied if said else DeviceMemoryError, match=said)
    with expected as raised, naming_what_to_lower(stage_of("expert"), "expert 7", gpus):
        raise torch.OutOfMemoryError(OF_CUDA)
    assert raised.value.may_be_of_the_machine == bool(said)
