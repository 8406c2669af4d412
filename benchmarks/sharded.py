"""Students and experts replicated on each rank, sharded by DeepSpeed ZeRO 3, and sharded by FSDP2, on 1, 2 and 4 ranks: memory,
communication, time, and the error of the gradient.

    python -m benchmarks.sharded [--quick]

Ranks are processes with one thread each on this machine, connected by gloo. Two steps are measured: an outer step of a student
(central differences) and a training step of an expert (SGD with momentum). `state` is the memory of a rank between two
passes: its parameters, the engine's copy and buffers, and gradients; for a student also snapshots, adjoint, and start and
target parameters; for an expert also momentum. It is the number of bytes of distinct tensors, without the pairs, and the
maximum over the starts of passes; with shards it should fall as 1/world. `peak` is the memory that torch's allocator
allocates during a step in addition. `sent` is the number of bytes that all ranks send in a step by the usual cost of each
collective (Thakur et al. 2005), compared with two all-gathers and one reduce-scatter of the parameters for each pass, the
minimum for a sharded model. Seconds are the median over repeats of the slowest rank's; the kinds of sharding alternate. The
error is that of `exact` compared with one process, relative l2 of the gradients of pairs and of rates. The last line is JSON:
STEP.SHARDING.RANKS.{state, sent, time} (ratios to one rank, to the minimum, to `none`) and gradient_error.SHARDING.3.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._measure import print_json
from vldd_dist.config.base import Sharding
from vldd_dist.config.sections.model import HeadSettings, ImageTowerSettings, ModelSettings, TextTowerSettings
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.distance import matching_loss
from vldd_dist.distillation.student.local_unroller import LocalUnroller
from vldd_dist.distillation.student.sharded_derivatives import ShardedFirstOrder
from vldd_dist.distillation.student.sharded_unroller import ShardedUnroller
from vldd_dist.distillation.student.unroller import StudentUnroll
from vldd_dist.distillation.unroll import Unroll
from vldd_dist.models.dual_encoder import DualEncoder, build
from vldd_dist.models.losses.infonce import InfoNCE
from vldd_dist.models.parameters import ParameterView
from vldd_dist.sharding.engines.sharded_model import shard_model
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.testing.allocated import allocated_peak
from vldd_dist.testing.processes.group import Group

IMAGE_SIZE, PAIRS, TEXT_DIM = 64, 12, 384
RATES = torch.tensor([0.01, 0.01])
MIB = 2**20
ENGINES: tuple[Sharding, ...] = ("zero3", "fsdp")
SHARDINGS: tuple[Sharding, ...] = ("none", *ENGINES)


def make_model(name: str) -> DualEncoder:
    image = ImageTowerSettings(model=name, model_args={"img_size": IMAGE_SIZE}, weights="random")
    text = TextTowerSettings(head=HeadSettings(kind="projection", dropout=0))
    return build(ModelSettings(image=image, text=text), TEXT_DIM, None, 0)


def make_ends(model: DualEncoder) -> tuple[list[Tensor], list[Tensor]]:
    """Start parameters, and target parameters at about the distance of one epoch."""
    generator = torch.Generator().manual_seed(0)
    start = list(ParameterView(model).read())
    return start, [value + 0.01 * value.std(correction=0) * torch.randn(value.shape, generator=generator) for value in start]


def make_batches(steps: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((PAIRS, 3, IMAGE_SIZE, IMAGE_SIZE), (PAIRS, TEXT_DIM))
    return [[torch.randn(size, generator=generator) for size in sizes] for _ in range(steps)]


class SentBytes(TorchDispatchMode):
    """Counts the bytes that collectives send in the `with` block, summed over all ranks; every rank has the same sum."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.bytes = 0
        # Operation -> number of times that its longest tensor is sent.
        others = ranks.world_size - 1
        self.times_sent = {
            "c10d._allgather_base_.default": others,
            "c10d._reduce_scatter_base_.default": others,
            "c10d.allreduce_.default": 2 * others,
            "c10d.broadcast_.default": others,
        }

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if str(operation).startswith("c10d."):
            flat = [each for argument in arguments for each in (argument if isinstance(argument, list) else [argument])]
            longest = max(each.nbytes for each in flat if isinstance(each, Tensor))
            # An operation that is not listed raises KeyError, which ends the benchmark.
            self.bytes += longest * self.times_sent[str(operation)]
        return operation(*arguments, **(named or {}))


def live_bytes() -> int:
    """Bytes of all distinct CPU tensor storages that Python references."""
    gc.collect()
    storages: dict[int, int] = {}
    for item in gc.get_objects():
        # Not isinstance, because some objects of torch then print a warning. Distributed tensors are skipped, because their
        # memory is that of their shards.
        if issubclass(type(item), Tensor) and not issubclass(type(item), DTensor) and item.device.type == "cpu":
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Figures(NamedTuple):
    """Figures of one rank: bytes between two passes, bytes allocated in addition, bytes sent in a step, seconds of each
    step."""

    state: int
    peak: int
    sent: int
    seconds: list[float]


class Measured:
    """A repeatable step with one kind of sharding, and the memory that a rank needs for it.

    Args:
        make: sets up the step. Returns the step, which calls its argument between passes, and the bytes of its pairs.
    """

    def __init__(self, ranks: Ranks, make: "Callable[[], tuple[Step, int]]") -> None:
        before = live_bytes()
        self.step, pairs = make()
        # The first step also traces the model and loads the kernels.
        self.step(_nothing)
        sizes: list[int] = []
        with SentBytes(ranks) as sent:
            self.step(lambda: sizes.append(live_bytes()))
        self.peak = allocated_peak(lambda: self.step(_nothing))
        self.state, self.sent = max(sizes) - before - pairs, sent.bytes
        self.seconds: list[float] = []

    def time(self) -> None:
        started = time.perf_counter()
        self.step(_nothing)
        self.seconds.append(time.perf_counter() - started)

    def figures(self) -> Figures:
        return Figures(self.state, self.peak, self.sent, self.seconds)


Step = Callable[[Callable[[], object]], object]


def _nothing() -> None:
    """The argument of a step that is not observed."""


def make_outer_step(ranks: Ranks, sharding: Sharding, name: str, steps: int) -> tuple[Step, int]:
    model = make_model(name)
    start_whole, target_whole = make_ends(model)
    batches = [[tensor[slice(*ranks.rows(PAIRS))].clone() for tensor in batch] for batch in make_batches(steps)]
    settings = TrajectoryMatching(gradient="finite_difference")
    unroller = ShardedUnroller(model, InfoNCE(), settings, None, ranks, sharding, PAIRS)
    start, target = ([shard.clone() for shard in unroller.layout.cut(whole)] for whole in (start_whole, target_whole))
    gradients = ShardedFirstOrder.gradients

    def step(between: Callable[[], object]) -> object:
        def watched(self: ShardedFirstOrder, *arguments: Any, **named: Any) -> Any:
            between()
            return gradients(self, *arguments, **named)

        ShardedFirstOrder.gradients = watched  # type: ignore[method-assign]
        outer = partial(matching_loss, start=start, target=target, towers=unroller.towers, ranks=ranks)
        result = unroller.gradient(StudentUnroll(Unroll(start, RATES, batches, outer, unroller.towers), 0), 1e-4)
        ShardedFirstOrder.gradients = gradients  # type: ignore[method-assign]
        return result

    return step, sum(tensor.nbytes for batch in batches for tensor in batch)


def make_expert_step(ranks: Ranks, sharding: Sharding, name: str) -> tuple[Step, int]:
    model, loss = make_model(name).train(), InfoNCE()
    model.gather_rows = ranks.rows_gatherer(PAIRS)
    images, texts = (tensor[slice(*ranks.rows(PAIRS))].clone() for tensor in make_batches(1)[0])
    optimiser = torch.optim.SGD(ParameterView(model).parameters, lr=1e-3, momentum=0.9)
    expert = shard_model(model, optimiser, sharding, ranks)

    def step(between: Callable[[], object]) -> None:
        between()
        expert.step(loss(*expert(images, texts)) / ranks.world_size)

    return step, images.nbytes + texts.nbytes


def measure_rank(ranks: Ranks, name: str, steps: int, repeats: int) -> dict[str, dict[str, Figures]]:
    """Sharding -> step -> its figures. The kinds of sharding alternate, so that other load affects all of them."""
    measured = {
        sharding: {
            "outer step": Measured(ranks, partial(make_outer_step, ranks, sharding, name, steps)),
            "expert's step": Measured(ranks, partial(make_expert_step, ranks, sharding, name)),
        }
        for sharding in SHARDINGS
    }
    for _ in range(repeats):
        for of_sharding in measured.values():
            for step in of_sharding.values():
                step.time()
    return {sharding: {name: step.figures() for name, step in steps.items()} for sharding, steps in measured.items()}


def exact_on_rank(ranks: Ranks, sharding: Sharding, name: str, steps: int) -> tuple[list[list[Tensor]], Tensor]:
    model = make_model(name)
    start, target = make_ends(model)
    batches = [[tensor[slice(*ranks.rows(PAIRS))] for tensor in batch] for batch in make_batches(steps)]
    unroller = ShardedUnroller(model, InfoNCE(), TrajectoryMatching(), None, ranks, sharding, PAIRS)
    cut = unroller.layout.cut
    outer = partial(matching_loss, start=cut(start), target=cut(target), towers=unroller.towers, ranks=ranks)
    result = unroller.gradient(StudentUnroll(Unroll(cut(start), RATES, batches, outer, unroller.towers), 0))
    return [list(batch) for batch in result.batch_gradients], result.rate_gradients


def gradient_error(world: int, sharding: Sharding, name: str, steps: int) -> float:
    model = make_model(name)
    start, target = make_ends(model)
    unroller = LocalUnroller(model, InfoNCE(), TrajectoryMatching(), None)
    outer = partial(matching_loss, start=start, target=target, towers=unroller.towers)
    expected = unroller.gradient(StudentUnroll(Unroll(start, RATES, make_batches(steps), outer, unroller.towers), 0))
    group = Group(world)
    parts = group.run(exact_on_rank, sharding, name, steps)
    group.close()
    joined = [torch.cat([batches[step][k] for batches, _ in parts]) for step in range(steps) for k in (0, 1)]
    pairs = [tensor for batch in expected.batch_gradients for tensor in batch]
    return max(_relative(joined, pairs), _relative([parts[0][1]], [expected.rate_gradients]))


def _relative(actual: list[Tensor], expected: list[Tensor]) -> float:
    a, b = (torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (actual, expected))
    return float((a - b).norm() / b.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description="Sharded students and experts on several ranks.")
    parser.add_argument("--quick", action="store_true", help="a network a quarter as large")
    quick = parser.parse_args().quick
    name, steps, repeats = f"vit_{'tiny' if quick else 'small'}_patch16_224", 2, 3
    torch.set_num_threads(1)
    theta = sum(tensor.nbytes for tensor in ParameterView(make_model(name)).parameters)
    results: dict[int, list[dict[str, dict[str, Figures]]]] = {}
    for world in (1, 2, 4):
        group = Group(world)
        results[world] = group.run(measure_rank, name, steps, repeats)
        group.close()
    summary: dict[str, float] = {}
    # Central differences need three passes for each inner step.
    for step, passes in (("outer step", 3 * steps), ("expert's step", 1)):
        title = f"{name} ({theta / MIB:.0f} MiB), {step}, {IMAGE_SIZE} px, {PAIRS} pairs"
        summary |= _print_table(results, step, passes * theta, title)
    summary |= {f"gradient_error.{sharding}.3": gradient_error(3, sharding, "vit_tiny_patch16_224", 2) for sharding in ENGINES}
    print_json(summary)


def _print_table(
    results: dict[int, list[dict[str, dict[str, Figures]]]], step: str, pass_bytes: int, title: str
) -> dict[str, float]:
    """Print the table of a step. Returns the ratios by name.

    Args:
        results: number of ranks -> figures of each rank.
        pass_bytes: bytes of the parameters times the number of passes in a step.
    """
    table, ratios = Table(title=title), dict[str, float]()
    for heading in ("ranks", "sharding", "state MiB", "of 1 rank", "peak MiB", "sent MiB", "of the least", "s", "of none"):
        table.add_column(heading, justify="right")
    for world, ranks in results.items():
        seconds = {kind: _median_of_slowest([rank[kind][step].seconds for rank in ranks]) for kind in SHARDINGS}
        for sharding in SHARDINGS:
            figures = [rank[sharding][step] for rank in ranks]
            state, sent = max(of_rank.state for of_rank in figures), figures[0].sent
            fraction, least = state / results[1][0][sharding][step].state, 3 * (world - 1) * pass_bytes
            times = seconds[sharding] / seconds["none"]
            table.add_row(
                str(world),
                sharding,
                f"{state / MIB:.0f}",
                f"{fraction:.3f}",
                f"{max(of_rank.peak for of_rank in figures) / MIB:.0f}",
                f"{sent / MIB:.0f}",
                f"{sent / least:.3f}" if least else "-",
                f"{seconds[sharding]:.2f}",
                f"{times:.2f}",
            )
            if world > 1 and sharding in ENGINES:
                values = {"state": fraction, "sent": sent / least, "time": times}
                ratios |= {f"{step}.{sharding}.{world}.{what}": round(value, 3) for what, value in values.items()}
    Console(width=120).print(table)
    return ratios


def _median_of_slowest(seconds: list[list[float]]) -> float:
    """Median over the repeats of the slowest rank's seconds, from the seconds of each rank's repeats."""
    return statistics.median(max(repeat) for repeat in zip(*seconds, strict=True))


if __name__ == "__main__":
    main()
