"""Time and memory of an outer step for 100, 1,000 and 10,000 pairs, at a fixed minibatch.

    python -m benchmarks.pairs [--quick]

Whole runs of the outer loop at 64 px (`exact`, two inner steps of 20 pairs, Adam), with noise pairs and an expert with two
snapshots. Time is the median over outer steps in CPU seconds of one thread; the two numbers of pairs alternate step by step.
Memory is the growth of a rank's resident set while the pairs, the best pairs and the optimiser's moments are created and
updated, on one rank and on two. The last line is JSON: time_ratio_10000_vs_100; memory_per_pair_ratio, twice the memory of a
further pair on each of two ranks over that in one process.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._measure import peak_memory, print_json
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.tensor_cache import TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory, write_snapshots
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.expert_trajectories import Experts
from vldd_dist.distillation.initialisations.noise import noise_pairs
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching, TrajectoryMatchingProblem
from vldd_dist.distillation.outer_loop import Distillation
from vldd_dist.distillation.pairs import SyntheticPairs
from vldd_dist.distillation.student import make_unroller
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.pipeline.stages.expert import ExpertFacts
from vldd_dist.sharding.ranks import SOLO, Ranks
from vldd_dist.store.store import Store
from vldd_dist.testing.processes.group import Group

IMAGE_SIZE, MINIBATCH, INNER_STEPS, TEXT_DIM = 64, 20, 2, 384
BUDGETS = (100, 1_000, 10_000)
MIB = 2**20


def make_model() -> DualEncoder:
    image = ImageTowerSettings(model="test_nfnet", weights="random")
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    return build(ModelSettings(image=image, text=text), TEXT_DIM, None, 0)


def write_trajectory(store: Store, model: DualEncoder) -> None:
    """Write an expert with two snapshots, which differ slightly."""
    writer = UnitWriter(store, "expert", "e", {}, {})
    generator = torch.Generator().manual_seed(0)
    for epoch in (0, 1):
        parameters = {tower: ParameterView(model).as_dict(tower) for tower in TOWERS}

        def moved(value: Tensor, epoch: int = epoch) -> Tensor:
            return value + epoch * 0.01 * torch.randn(value.shape, generator=generator)

        encoded = {
            tower: tensors.encode({name: moved(value) for name, value in of_tower.items()})
            for tower, of_tower in parameters.items()
        }
        for name, info in write_snapshots(writer, epoch, encoded).items():
            writer.adopt(name, info)
    writer.commit(ExpertFacts(loss=[], validation=[], epochs=[0, 1]))


def make_run(ranks: Ranks, url: str, pairs: int, outer_steps: int, report: Any) -> Distillation:
    settings = DistillationSettings(
        objective=TrajectoryMatching(inner_steps=INNER_STEPS, max_start_epoch=0, max_loss=1e9),
        batch_size=MINIBATCH,
        outer_steps=outer_steps,
        validate_every=10**6,
    )
    store, loss, no_data = Store(url), InfoNCE(), cast(Any, None)
    context = DistillationContext(
        settings=settings,
        total=pairs,
        seed=0,
        model=make_model(),
        loss=loss,
        embeddings=no_data,
        image_features=None,
        report=report,
        ranks=ranks,
    )
    unroller = make_unroller(context.model, loss, settings.objective, None, ranks, "none", MINIBATCH)
    experts = Experts(1, lambda index: Trajectory(UnitReader(store, "expert", "e"), TensorCache(), unroller.snapshot_slices))
    captions = torch.randn(50, TEXT_DIM, generator=torch.Generator().manual_seed(0))
    images, texts = noise_pairs(context.rows, (3, IMAGE_SIZE, IMAGE_SIZE), captions.mean(0), captions.std(0), 0)
    learned = settings.objective.learned_shared()
    return Distillation(
        TrajectoryMatchingProblem(settings.objective, context, unroller, experts, seed=0),
        SyntheticPairs({"images": images, "texts": texts}, {name: one.start for name, one in learned.items()}),
        settings.outer_rates() | {name: one.lr for name, one in learned.items()},
        context,
        validate=lambda given: 0.0,
        writer=None,
    )


@contextmanager
def trajectory_store() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        write_trajectory(Store(folder), make_model())
        yield folder


def step_seconds(url: str, outer_steps: int) -> dict[int, float]:
    """Budget -> median CPU seconds of an outer step, without the first two steps."""
    runs = {pairs: make_run(SOLO, url, pairs, outer_steps, lambda event: None) for pairs in BUDGETS}
    durations: dict[int, list[float]] = {pairs: [] for pairs in BUDGETS}
    for step in range(outer_steps):
        for pairs, run in runs.items():
            started = time.process_time()
            run.outer_step(step)
            durations[pairs].append(time.process_time() - started)
    return {pairs: statistics.median(seconds[2:]) for pairs, seconds in durations.items()}


def rank_memory(ranks: Ranks, url: str, pairs: int) -> int:
    """Bytes by which creating a run and making two outer steps increase this process's memory."""
    _, peak = peak_memory(lambda: make_run(ranks, url, pairs, 2, lambda event: None).run())
    return peak


def memory_per_pair(world: int, url: str, counts: tuple[int, int]) -> tuple[float, list[int]]:
    """Bytes per rank for a further pair, and the peaks from which they are computed. Each peak is measured in a new group,
    because processes do not return memory to the system."""
    peaks = []
    for pairs in counts:
        group = Group(world)
        # A warm-up run loads the kernels.
        group.run(rank_memory, url, MINIBATCH)
        peaks.append(max(group.run(rank_memory, url, pairs)))
        group.close()
    return (peaks[1] - peaks[0]) / (counts[1] - counts[0]), peaks


def main() -> None:
    parser = argparse.ArgumentParser(description="Outer steps of small and large numbers of pairs.")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with trajectory_store() as url:
        seconds = step_seconds(url, 8 if quick else 30)
        costs = {world: memory_per_pair(world, url, BUDGETS[1:]) for world in (1, 2)}
    table = Table("pairs", "CPU s a step", title=f"{IMAGE_SIZE} px, minibatch {MINIBATCH}, {INNER_STEPS} inner steps")
    for pairs, of_step in seconds.items():
        table.add_row(f"{pairs:,}", f"{of_step:.3f}")
    console = Console(width=100)
    console.print(table)
    values = 4 * (3 * IMAGE_SIZE**2 + TEXT_DIM)
    memory = Table("ranks", *(f"{pairs:,} pairs, MiB" for pairs in BUDGETS[1:]), "a pair and rank, KiB", "of its values")
    for world, (per_pair, peaks) in costs.items():
        shares = f"{per_pair / 1024:.0f}", f"{per_pair / values:.2f}"
        memory.add_row(str(world), *(f"{peak / MIB:.0f}" for peak in peaks), *shares)
    console.print(memory)
    print_json(
        {
            "time_ratio_10000_vs_100": round(seconds[BUDGETS[-1]] / seconds[BUDGETS[0]], 3),
            "memory_per_pair_ratio": round(2 * costs[2][0] / costs[1][0], 3),
        }
    )


if __name__ == "__main__":
    main()
