"""What whole experiments cost: GPU-hours, bytes and requests of Flickr30K, COCO and a source of 100 million pairs.

    python -m benchmarks.scaling_model

Prints the tables of docs/scaling.md as they stand there. GPU-hours come of assumed speeds (`SPEEDS` and below it: put in your
own), bytes are the planner's (`cost_model.io_model`), and requests follow from the bytes. Nothing is measured, and nothing
is run but the planner's trace.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.cost_model.io_model import COMMON_TEXT_DIM, JPEG_BYTES_A_PIXEL, TAR_BYTES, DataSize
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo, encode_index
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.planner.estimator import Estimator
from vldd_dist.store.node_cache import DEFAULT_GIB
from vldd_dist.store.objects import BLOCK_BYTES
from vldd_dist.store.s3 import PART_BYTES

PRESETS = Path(__file__).parents[1] / "jobs" / "presets"
STUDENTS = {"nfnet_l0": "flickr30k-nfnet-bert.yaml", "ViT-B/16 with LoRA": "flickr30k-vit-lora.yaml"}

# Training images per GPU and second at 224 px: assumed, for one data-centre GPU in mixed precision.
SPEEDS = {"nfnet_l0": 600.0, "vit_base_patch16_224": 500.0}
# Speed of an image without gradients relative to training; cost of one pair in an inner step of `exact`, in training images.
ENCODING_SPEEDUP, EXACT_STEPS = 3.0, 4.0
# Captions per GPU and second through BERT; images per second through the one process that prepares a data set. Assumed, too.
CAPTIONS_A_SECOND, PREPARED_A_SECOND = 3_000.0, 150.0
# Requests of a checkpoint (look, objects, mark, list, remove the oldest) and of a unit (the store's mark, look,
# its objects, commit, list).
CHECKPOINT_REQUESTS, UNIT_REQUESTS = 10, 5
GB, MB = 1e9, 1e6


@dataclass(frozen=True)
class Source:
    """Images by split, captions per image, and overrides of the presets."""

    name: str
    images: dict[str, int]
    captions_each: int
    overrides: tuple[str, ...] = ()

    @property
    def captions(self) -> int:
        return self.captions_each * sum(self.images.values())


SOURCES = (
    Source("Flickr30K", {"train": 29_000, "val": 1_014, "test": 1_000}, 5),
    Source("COCO", {"train": 113_287, "val": 5_000, "test": 5_000}, 5),
    # Few epochs, because there are many images: those that distillation can reach, and one more.
    Source("100M pairs", {"train": 100_000_000, "val": 5_000, "test": 5_000}, 1, ("experts.epochs=3",)),
)


@dataclass(frozen=True)
class Cost:
    """What the units of one kind take in a whole experiment.

    Attributes:
        hours: GPU-hours of all.
        read, written: bytes of all.
        requests: of all, from workers.
    """

    units: int
    hours: float
    read: int
    written: int
    requests: int


def describe(source: Source, preset: str) -> Experiment:
    """A preset for a source; where its files lie does not matter here."""
    return load_experiment(PRESETS / preset, ["data.source.annotations=none", "data.source.images=none", *source.overrides])


def with_pairs(experiment: Experiment, pairs: int) -> Experiment:
    """The same for one budget."""
    return experiment.model_copy(update={"distill": experiment.distill.model_copy(update={"pairs": [pairs]})})


def model(source: Source, preset: str) -> dict[str, Cost]:
    """Kind -> cost, of the kinds that take the time and the bytes."""
    experiment = describe(source, preset)
    seconds = gpu_seconds(source, experiment)
    epochs, distill = experiment.experts.epochs, experiment.distill
    inputs = {"expert": 3, "distillation": 3 + experiment.experts.count, "evaluation": 4}
    checkpoints = {"expert": epochs + 1, "distillation": distill.outer_steps // distill.checkpoint_every}
    costs = {}
    for kind, groups in units_and_bytes(source, experiment).items():
        units = sum(count for count, _, _ in groups)
        fixed = inputs[kind] + UNIT_REQUESTS + CHECKPOINT_REQUESTS * checkpoints.get(kind, 0)
        pieces = sum(count * (math.ceil(read / BLOCK_BYTES) + math.ceil(wrote / PART_BYTES)) for count, read, wrote in groups)
        read, written = sum(count * read for count, read, _ in groups), sum(count * wrote for count, _, wrote in groups)
        costs[kind] = Cost(units, seconds[kind] / 3600, read, written, units * fixed + pieces)
    return costs


def units_and_bytes(source: Source, experiment: Experiment) -> dict[str, list[tuple[int, int, int]]]:
    """Kind -> (units, bytes one of them reads, writes), of each budget by itself.

    A distilled set is judged with each evaluation seed; a coreset method selects anew for each, and each selection is judged
    once.
    """
    experts, distill, judging = experiment.experts, experiment.distill, experiment.evaluation
    sets = (len(distill.seeds) + len(experiment.coresets.methods)) * len(judging.seeds)
    groups: dict[str, list[tuple[int, int, int]]] = {
        "expert": [(experts.count, *bytes_of_a_unit(source, experiment, "expert"))],
        "distillation": [],
        "evaluation": [],
    }
    for pairs in distill.pairs:
        one_budget = with_pairs(experiment, pairs)
        groups["distillation"].append((len(distill.seeds), *bytes_of_a_unit(source, one_budget, "distillation")))
        groups["evaluation"].append((sets, *bytes_of_a_unit(source, one_budget, "evaluation")))
    # An expert is judged by its last snapshot, not by pairs.
    read, written = bytes_of_a_unit(source, with_pairs(experiment, 1), "evaluation")
    snapshot = sum(trace_of(experiment).trainable_bytes.values())
    groups["evaluation"].append((experts.count, read + snapshot, written))
    return groups


def gpu_seconds(source: Source, experiment: Experiment) -> dict[str, float]:
    """Kind -> seconds of one GPU, of all its units. Training images count one, encoded ones `1 / ENCODING_SPEEDUP`."""
    experts, distill, judging = experiment.experts, experiment.distill, experiment.evaluation
    train, val, test = (source.images[split] for split in ("train", "val", "test"))
    entries = train * (source.captions_each if experts.captions == "all" else 1)
    rates = len(judging.learning_rates)
    # Before the first outer step, now and then, and after the last.
    validations = 1 + math.ceil(distill.outer_steps / distill.validate_every)
    distilled = judged = 0.0
    for pairs in distill.pairs:
        # A student for each learning rate, each measured on the validation split.
        chosen = rates * (judging.epochs * pairs + val / ENCODING_SPEEDUP)
        drawn = distill.objective.inner_steps * min(distill.batch_size or pairs, pairs)
        distilled += distill.outer_steps * drawn * EXACT_STEPS + validations * chosen
        judged += chosen + test / ENCODING_SPEEDUP
    sets = (len(distill.seeds) + len(experiment.coresets.methods)) * len(judging.seeds)
    images = {
        "expert": experts.count * (experts.epochs * entries + (experts.epochs + 1) * val / ENCODING_SPEEDUP),
        "distillation": len(distill.seeds) * distilled,
        "evaluation": experts.count * test / ENCODING_SPEEDUP + sets * judged,
    }
    return {kind: count / SPEEDS[experiment.model.image.model] for kind, count in images.items()}


def data_size(source: Source, experiment: Experiment) -> DataSize:
    """The size of the prepared images."""
    an_image = TAR_BYTES + round(experiment.data.image_size**2 * JPEG_BYTES_A_PIXEL)
    shards = {split: count * an_image for split, count in source.images.items()}
    return DataSize(source.images, shards, source.captions, measured=False)


def bytes_of_a_unit(source: Source, experiment: Experiment, kind: str) -> tuple[int, int]:
    """Read and written by one unit, as the planner says; shards that the node's cache cannot hold are read each epoch."""
    data = data_size(source, experiment)
    traffic = stage_of(kind).traffic
    assert traffic is not None
    moved = traffic(experiment, _estimator().trace, data)
    train = data.shards["train"]
    again = experiment.experts.epochs - 1 if kind == "expert" and train > DEFAULT_GIB * 2**30 else 0
    return moved.reads + (moved.data or 0) + again * train, moved.writes


@cache
def _estimator() -> Estimator:
    return Estimator(COMMON_TEXT_DIM)


def trace_of(experiment: Experiment) -> MemoryTrace:
    return _estimator().trace(experiment.model, experiment.data.image_size)


def index_bytes_a_shard() -> int:
    """Of the data set's index, whose reader holds all of it."""

    def index(shards: int) -> bytes:
        found = [Shard("0" * 16, f"train-{number:06d}", 1000, 5000, 0, "0" * 64) for number in range(shards)]
        return encode_index({"train": SplitInfo.of(found)})

    return len(index(2)) - len(index(1))


def student_table(student: str, preset: str) -> Iterator[str]:
    sizes = trace_of(describe(SOURCES[0], preset)).trainable_bytes
    towers = ", ".join(f"{tower} tower {size / MB:.1f} MB" for tower, size in sizes.items())
    yield f"{student}; a snapshot: {towers}."
    yield ""
    yield "| source | kind | units | GPU-h a unit | GPU-h | read, GB | written, GB | requests |"
    yield "|:--|:--|--:|--:|--:|--:|--:|--:|"
    for source in SOURCES:
        for kind, cost in model(source, preset).items():
            sums = f"{cost.hours:,.1f} | {cost.read / GB:,.1f} | {cost.written / GB:,.1f} | {cost.requests:,}"
            yield f"| {source.name} | {kind} | {cost.units} | {cost.hours / cost.units:,.3f} | {sums} |"


def source_table() -> Iterator[str]:
    """What depends on the source alone."""
    yield "| source | groups | shards | GB | index, MB | embeddings, GB | preparing, worker-h | embedding, GPU-h |"
    yield "|:--|--:|--:|--:|--:|--:|--:|--:|"
    for source in SOURCES:
        experiment = describe(source, STUDENTS["nfnet_l0"])
        images, size = sum(source.images.values()), sum(data_size(source, experiment).shards.values())
        each = experiment.data.shard_images
        shards = sum(math.ceil(count / each) for count in source.images.values())
        groups = sum(math.ceil(count / experiment.data.group_images) for count in source.images.values())
        index, embeddings = shards * index_bytes_a_shard(), source.captions * 4 * COMMON_TEXT_DIM
        sizes = f"{groups:,} | {shards:,} | {size / GB:,.1f} | {index / MB:,.2f} | {embeddings / GB:,.2f}"
        prepared, embedded = images / PREPARED_A_SECOND / 3600, source.captions / CAPTIONS_A_SECOND / 3600
        yield f"| {source.name} | {sizes} | {prepared:,.2f} | {embedded:,.3f} |"


def tables() -> str:
    """What docs/scaling.md holds."""
    lines: list[str] = []
    for student, preset in STUDENTS.items():
        lines += [*student_table(student, preset), ""]
    return "\n".join([*lines, "What depends on the source alone.", "", *source_table()]) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
