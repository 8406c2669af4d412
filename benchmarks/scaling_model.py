"""The costs of whole experiments: GPU-hours, bytes and requests for Flickr30K, COCO and a source of 100 million pairs.

    python -m benchmarks.scaling_model

Prints the tables of docs/scaling.md. GPU-hours are computed from assumed speeds (`SPEEDS` and the constants below it, which
you can replace by your own), bytes are the planner's (`cost_model.io_model`), and requests follow from the bytes. Nothing is
measured, and only the planner's trace is run.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.cost_model.io_model import COMMON_TEXT_DIM, JPEG_BYTES_PER_PIXEL, TAR_BYTES, DataSize
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.data.prepared.shard_index import Shard, SplitInfo, encode_index
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.planner.estimator import Estimator
from vldd_dist.store.backends.s3 import PART_BYTES
from vldd_dist.store.cache.node_cache import DEFAULT_GIB
from vldd_dist.store.objects import BLOCK_BYTES

PRESETS = Path(__file__).parents[1] / "jobs" / "presets"
STUDENTS = {"nfnet_l0": "flickr30k-nfnet-bert.yaml", "ViT-B/16 with LoRA": "flickr30k-vit-lora.yaml"}

# Assumed: training images per second and GPU at 224 px, for one data-centre GPU in mixed precision.
SPEEDS = {"nfnet_l0": 600.0, "vit_base_patch16_224": 500.0}
# Assumed: speed of encoding an image relative to training, and cost of a pair in an inner step of `exact`, in training images.
ENCODING_SPEEDUP, EXACT_STEPS = 3.0, 4.0
# Assumed: captions per second and GPU through BERT, and images per second that a process prepares.
CAPTIONS_A_SECOND, PREPARED_A_SECOND = 3_000.0, 150.0
# Requests of a checkpoint (check for a commit, objects, record, list, remove the oldest), of a unit (the store's mark, check
# for a commit, objects, commit, list) and of each of its inputs (the manifest).
CHECKPOINT_REQUESTS, UNIT_REQUESTS, INPUT_REQUESTS = 10, 5, 1
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
    # Few epochs, because there are many images: those that distillation can start from, and one more.
    Source("100M pairs", {"train": 100_000_000, "val": 5_000, "test": 5_000}, 1, ("experts.epochs=3",)),
)


@dataclass(frozen=True)
class Cost:
    """The costs of all units of one kind in a whole experiment.

    Attributes:
        hours: GPU-hours.
        read, written: bytes.
        requests: requests of workers to the store.
    """

    units: int
    hours: float
    read: int
    written: int
    requests: int


def describe(source: Source, preset: str) -> Experiment:
    """A preset for a source. The paths of its files do not matter here."""
    return load_experiment(PRESETS / preset, ["data.source.annotations=none", "data.source.images=none", *source.overrides])


def with_pairs(experiment: Experiment, pairs: int) -> Experiment:
    """The experiment with a single number of pairs."""
    return experiment.model_copy(update={"distill": experiment.distill.model_copy(update={"pairs": [pairs]})})


def model(source: Source, preset: str) -> dict[str, Cost]:
    """Kind -> cost, for the kinds that need most of the time and bytes."""
    experiment = describe(source, preset)
    seconds = gpu_seconds(source, experiment)
    epochs, distill = experiment.experts.epochs, experiment.distill
    inputs = {"expert": 3, "distillation": 3 + experiment.experts.count, "evaluation": 4}
    checkpoints = {"expert": epochs + 1, "distillation": distill.outer_steps // distill.checkpoint_every}
    costs = {}
    for kind, groups in units_and_bytes(source, experiment).items():
        units = sum(count for count, _, _ in groups)
        fixed = INPUT_REQUESTS * inputs[kind] + UNIT_REQUESTS + CHECKPOINT_REQUESTS * checkpoints.get(kind, 0)
        pieces = sum(count * (math.ceil(read / BLOCK_BYTES) + math.ceil(wrote / PART_BYTES)) for count, read, wrote in groups)
        read, written = sum(count * read for count, read, _ in groups), sum(count * wrote for count, _, wrote in groups)
        costs[kind] = Cost(units, seconds[kind] / 3600, read, written, units * fixed + pieces)
    return costs


def units_and_bytes(source: Source, experiment: Experiment) -> dict[str, list[tuple[int, int, int]]]:
    """Kind -> (number of units, bytes that one reads, bytes that one writes), separately for each number of pairs.

    A distilled set is evaluated with each evaluation seed; a coreset method selects pairs anew for each seed, and each
    selection is evaluated once.
    """
    experts, distill, evaluation = experiment.experts, experiment.distill, experiment.evaluation
    sets = (len(distill.seeds) + len(experiment.coresets.methods)) * len(evaluation.seeds)
    groups: dict[str, list[tuple[int, int, int]]] = {
        "expert": [(experts.count, *bytes_of_a_unit(source, experiment, "expert"))],
        "distillation": [],
        "evaluation": [],
    }
    for pairs in distill.pairs:
        of_pairs = with_pairs(experiment, pairs)
        groups["distillation"].append((len(distill.seeds), *bytes_of_a_unit(source, of_pairs, "distillation")))
        groups["evaluation"].append((sets, *bytes_of_a_unit(source, of_pairs, "evaluation")))
    # An expert's evaluation reads its last snapshot instead of pairs.
    read, written = bytes_of_a_unit(source, with_pairs(experiment, 1), "evaluation")
    snapshot = sum(trace_of(experiment).trainable_bytes.values())
    groups["evaluation"].append((experts.count, read + snapshot, written))
    return groups


def gpu_seconds(source: Source, experiment: Experiment) -> dict[str, float]:
    """Kind -> GPU-seconds of all its units. A training image counts as one image, an encoded one as `1 / ENCODING_SPEEDUP`."""
    experts, distill, evaluation = experiment.experts, experiment.distill, experiment.evaluation
    train, val, test = (source.images[split] for split in ("train", "val", "test"))
    entries = train * (source.captions_each if experts.captions == "all" else 1)
    rates = len(evaluation.learning_rates)
    distilling = evaluating = 0.0
    for pairs in distill.pairs:
        # A student for each learning rate, each measured on the validation split.
        choosing = rates * (evaluation.epochs * pairs + val / ENCODING_SPEEDUP)
        pairs_per_step = distill.objective.inner_steps * min(distill.batch_size or pairs, pairs)
        distilling += distill.outer_steps * pairs_per_step * EXACT_STEPS + distill.validations() * choosing
        evaluating += choosing + test / ENCODING_SPEEDUP
    sets = (len(distill.seeds) + len(experiment.coresets.methods)) * len(evaluation.seeds)
    images = {
        "expert": experts.count * (experts.epochs * entries + (experts.epochs + 1) * val / ENCODING_SPEEDUP),
        "distillation": len(distill.seeds) * distilling,
        "evaluation": experts.count * test / ENCODING_SPEEDUP + sets * evaluating,
    }
    return {kind: count / SPEEDS[experiment.model.image.model] for kind, count in images.items()}


def data_size(source: Source, experiment: Experiment) -> DataSize:
    """The size of the prepared images."""
    bytes_per_image = TAR_BYTES + round(experiment.data.image_size**2 * JPEG_BYTES_PER_PIXEL)
    shards = {split: count * bytes_per_image for split, count in source.images.items()}
    return DataSize(source.images, shards, source.captions, measured=False)


def bytes_of_a_unit(source: Source, experiment: Experiment, kind: str) -> tuple[int, int]:
    """Bytes that one unit reads and writes, as the planner estimates; shards that exceed the node's cache are read in each
    epoch."""
    data = data_size(source, experiment)
    traffic_of = stage_of(kind).traffic
    assert traffic_of is not None
    traffic = traffic_of(experiment, _estimator().trace, data, None)
    train = data.shards["train"]
    further_reads = experiment.experts.epochs - 1 if kind == "expert" and train > DEFAULT_GIB * 2**30 else 0
    return traffic.reads + (traffic.data or 0) + further_reads * train, traffic.writes


@cache
def _estimator() -> Estimator:
    return Estimator(COMMON_TEXT_DIM)


def trace_of(experiment: Experiment) -> MemoryTrace:
    return _estimator().trace(experiment.model, experiment.data.image_size)


def index_bytes_a_shard() -> int:
    """Bytes per shard of the data set's index, which its readers keep in memory."""

    def index(count: int) -> bytes:
        shards = [Shard("0" * 16, f"train-{number:06d}", 1000, 5000, 0, "0" * 64) for number in range(count)]
        return encode_index({"train": SplitInfo.of(shards)})

    return len(index(2)) - len(index(1))


def student_table(student: str, preset: str) -> Iterator[str]:
    sizes = trace_of(describe(SOURCES[0], preset)).trainable_bytes
    towers = ", ".join(f"{tower} tower {size / MB:.1f} MB" for tower, size in sizes.items())
    yield f"{student}; a snapshot: {towers}."
    yield ""
    yield "| source | stage | units | GPU-h per unit | GPU-h | read, GB | written, GB | requests |"
    yield "|:--|:--|--:|--:|--:|--:|--:|--:|"
    for source in SOURCES:
        for kind, cost in model(source, preset).items():
            sums = f"{cost.hours:,.1f} | {cost.read / GB:,.1f} | {cost.written / GB:,.1f} | {cost.requests:,}"
            yield f"| {source.name} | {kind} | {cost.units} | {cost.hours / cost.units:,.3f} | {sums} |"


def source_table() -> Iterator[str]:
    """The lines of the table of costs that depend only on the source."""
    yield "| source | groups | shards | GB | index, MB | embeddings, GB | preparing, worker-h | embedding, GPU-h |"
    yield "|:--|--:|--:|--:|--:|--:|--:|--:|"
    for source in SOURCES:
        experiment = describe(source, STUDENTS["nfnet_l0"])
        images, size = sum(source.images.values()), sum(data_size(source, experiment).shards.values())
        shards = sum(math.ceil(count / experiment.data.shard_images) for count in source.images.values())
        groups = sum(math.ceil(count / experiment.data.group_images) for count in source.images.values())
        index, embeddings = shards * index_bytes_a_shard(), source.captions * 4 * COMMON_TEXT_DIM
        sizes = f"{groups:,} | {shards:,} | {size / GB:,.1f} | {index / MB:,.2f} | {embeddings / GB:,.2f}"
        prepared, embedded = images / PREPARED_A_SECOND / 3600, source.captions / CAPTIONS_A_SECOND / 3600
        yield f"| {source.name} | {sizes} | {prepared:,.2f} | {embedded:,.3f} |"


def tables() -> str:
    """The tables in docs/scaling.md."""
    lines: list[str] = []
    for student, preset in STUDENTS.items():
        lines += [*student_table(student, preset), ""]
    return "\n".join([*lines, "Quantities that depend only on the data source:", "", *source_table()]) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
