"""A student in shards (ZeRO 3, central differences) on 1, 2 and 4 ranks: memory, time, communication, and the gradient's error.

    python -m benchmarks.sharded [--quick]

Ranks are processes of one thread each on this machine, connected by gloo. `state` is what a rank holds between two passes: its
shards of the parameters, the engine's copy and buffers, gradients, snapshots, adjoint, and the expert's two snapshots; in
bytes of distinct tensors, the maximum at the start of a pass, without the pairs. It should fall as 1/world. `peak` is the
growth of the process's resident set during the unroll. Communication is counted by the usual cost of each collective (Thakur
et al. 2005) and compared with two all-gathers and one reduce-scatter of the parameters for each pass, the minimum for ZeRO 3,
with three passes for each inner step. The error is that of `exact` on 2 and 3 ranks against one process, relative l2 over the
gradients of the pairs and of the rates. The last line is JSON: state_fraction_2, state_fraction_4, gradient_error_2,
gradient_error_3, comm_ratio (the worst over the numbers of ranks).
"""

import argparse
import gc
import time
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._measure import peak_memory, print_json
from vldd_dist.config.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.distance import distance_to
from vldd_dist.distillation.student.local import LocalUnrolling
from vldd_dist.distillation.student.on_ranks import ShardedUnrolling
from vldd_dist.distillation.student.sharded import ShardedFirstOrder
from vldd_dist.distillation.student.unrolling import Segment
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import ParameterView
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.testing.group import Group

IMAGE_SIZE, PAIRS, TEXT_DIM = 64, 12, 384
RATES = torch.tensor([0.01, 0.01])
MIB = 2**20


def make_model(name: str) -> DualEncoder:
    image = ImageTowerSettings(model=name, model_args={"img_size": IMAGE_SIZE}, weights="random")
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    return build(ModelSettings(image=image, text=text), TEXT_DIM, None, 0)


def make_ends(model: DualEncoder) -> tuple[list[Tensor], list[Tensor]]:
    """A start, and a target at about the distance of one epoch."""
    generator = torch.Generator().manual_seed(0)
    start = list(ParameterView(model).read())
    return start, [value + 0.01 * value.std(correction=0) * torch.randn(value.shape, generator=generator) for value in start]


def make_batches(steps: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((PAIRS, 3, IMAGE_SIZE, IMAGE_SIZE), (PAIRS, TEXT_DIM))
    return [[torch.randn(size, generator=generator) for size in sizes] for _ in range(steps)]


class Moved(TorchDispatchMode):
    """Counts the bytes that collectives send within the `with` block, summed over all ranks; every rank has the same sum."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.bytes = 0
        # Operation -> how many times its longest tensor is sent.
        once = ranks.world_size - 1
        self.crossings = {
            "c10d._allgather_base_.default": once,
            "c10d._reduce_scatter_base_.default": once,
            "c10d.allreduce_.default": 2 * once,
        }

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if str(operation).startswith("c10d."):
            flat = [each for given in arguments for each in (given if isinstance(given, list) else [given])]
            longest = max(each.nbytes for each in flat if isinstance(each, Tensor))
            # A KeyError ends the benchmark for an operation that is not listed.
            self.bytes += longest * self.crossings[str(operation)]
        return operation(*arguments, **(named or {}))


def live_bytes() -> int:
    """Bytes of all distinct CPU tensor storages that Python references."""
    gc.collect()
    storages: dict[int, int] = {}
    for each in gc.get_objects():
        # Not isinstance, because some objects of torch print a warning then.
        if issubclass(type(each), Tensor) and each.device.type == "cpu":
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class RankFigures(NamedTuple):
    """Of one rank: bytes, seconds per outer step, and bytes moved per inner step."""

    state: int
    peak: int
    seconds: float
    moved: float
    theta: int


def measure_rank(ranks: Ranks, name: str, steps: int, repeats: int) -> RankFigures:
    model = make_model(name)
    start_whole, target_whole = make_ends(model)
    batches = [[tensor[slice(*ranks.rows(PAIRS))].clone() for tensor in batch] for batch in make_batches(steps)]
    theta = sum(tensor.nbytes for tensor in start_whole)
    settings = TrajectoryMatching(gradient="finite_difference")
    unrolling = ShardedUnrolling(model, InfoNCE(), settings, None, ranks, "zero3", PAIRS)
    start, target = ([shard.clone() for shard in unrolling.layout.cut(whole)] for whole in (start_whole, target_whole))
    del start_whole, target_whole
    seen: list[int] = []
    gradients = ShardedFirstOrder.gradients

    def watched(self: ShardedFirstOrder, *arguments: Any, **named: Any) -> Any:
        seen.append(live_bytes())
        return gradients(self, *arguments, **named)

    def unroll() -> None:
        unrolling.gradient(Segment(start, distance_to(target, start, unrolling.towers, ranks), RATES, batches, (), 0), 1e-4)

    # The first unroll also traces the model and loads the kernels.
    unroll()
    apart = sum(tensor.nbytes for batch in batches for tensor in batch)
    ShardedFirstOrder.gradients = watched  # type: ignore[method-assign]
    unroll()
    ShardedFirstOrder.gradients = gradients  # type: ignore[method-assign]
    _, peak = peak_memory(unroll)
    with Moved(ranks) as moved:
        unroll()
    began = time.perf_counter()
    for _ in range(repeats):
        unroll()
    seconds = (time.perf_counter() - began) / repeats
    return RankFigures(max(seen) - apart, peak, seconds, moved.bytes / steps, theta)


def exact_on_rank(ranks: Ranks, name: str, steps: int) -> tuple[list[list[Tensor]], Tensor]:
    model = make_model(name)
    start, target = make_ends(model)
    batches = [[tensor[slice(*ranks.rows(PAIRS))] for tensor in batch] for batch in make_batches(steps)]
    unrolling = ShardedUnrolling(model, InfoNCE(), TrajectoryMatching(), None, ranks, "zero3", PAIRS)
    cut = unrolling.layout.cut
    outer = distance_to(cut(target), cut(start), unrolling.towers, ranks)
    result = unrolling.gradient(Segment(cut(start), outer, RATES, batches, (), 0), None)
    return [list(batch) for batch in result.batches], result.rates


def gradient_error(world: int, name: str, steps: int) -> float:
    model = make_model(name)
    start, target = make_ends(model)
    unrolling = LocalUnrolling(model, InfoNCE(), TrajectoryMatching(), None)
    segment = Segment(start, distance_to(target, start, unrolling.towers), RATES, make_batches(steps), (), 0)
    wanted = unrolling.gradient(segment, None)
    group = Group(world)
    parts = group.run(exact_on_rank, name, steps)
    group.close()
    joined = [torch.cat([batches[step][k] for batches, _ in parts]) for step in range(steps) for k in (0, 1)]
    pairs = [tensor for batch in wanted.batches for tensor in batch]
    return max(_relative(joined, pairs), _relative([parts[0][1]], [wanted.rates]))


def _relative(found: list[Tensor], wanted: list[Tensor]) -> float:
    a, b = (torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (found, wanted))
    return float((a - b).norm() / b.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description="A student in shards on several ranks.")
    parser.add_argument("--quick", action="store_true", help="a small student, one repeat")
    quick = parser.parse_args().quick
    name, steps, repeats = ("vit_tiny_patch16_224", 3, 1) if quick else ("vit_small_patch16_224", 4, 2)
    torch.set_num_threads(1)
    found: dict[int, list[RankFigures]] = {}
    for world in (1, 2, 4):
        group = Group(world)
        found[world] = group.run(measure_rank, name, steps, repeats)
        group.close()
    table = Table(title=f"{name}, {IMAGE_SIZE} px, {PAIRS} pairs, {steps} inner steps, ZeRO 3, central differences")
    for heading in ("ranks", "state MiB", "of 1 rank", "peak MiB", "s a step", "moved MiB", "of the least"):
        table.add_column(heading, justify="right")
    fractions, comm_ratios = {}, []
    for world, figures in found.items():
        worst = max(figures, key=lambda rank: rank.state)
        fractions[world] = worst.state / found[1][0].state
        least = 9 * (world - 1) * worst.theta
        ratio = worst.moved / least if least else 0.0
        comm_ratios.append(ratio)
        peak, seconds = max(rank.peak for rank in figures), max(rank.seconds for rank in figures)
        table.add_row(
            str(world),
            f"{worst.state / MIB:.0f}",
            f"{fractions[world]:.3f}",
            f"{peak / MIB:.0f}",
            f"{seconds:.1f}",
            f"{worst.moved / MIB:.0f}",
            f"{ratio:.3f}" if least else "-",
        )
    Console(width=100).print(table)
    print_json(
        {
            "state_fraction_2": round(fractions[2], 3),
            "state_fraction_4": round(fractions[4], 3),
            "gradient_error_2": gradient_error(2, "vit_tiny_patch16_224", 2),
            "gradient_error_3": gradient_error(3, "vit_tiny_patch16_224", 2),
            "comm_ratio": round(max(comm_ratios), 3),
        }
    )


if __name__ == "__main__":
    main()
