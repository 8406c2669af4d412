"""Bytes that a distillation reads from the store and writes to it."""

from vldd_dist.artifacts.tensor_files.snapshot_parts import LARGE_BYTES, PARTS
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize, SplitRead, Traffic, stored_inputs, traffic_of, weights_bytes
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.objectives import Objective
from vldd_dist.store.cache.node_cache import node_cache
from vldd_dist.store.objects import BLOCK_BYTES


def distillation_traffic(experiment: Experiment, trace: MemoryTrace, data: DataSize | None, earlier: int) -> Traffic:
    """Reads: the experts' snapshots; what the starting pairs are made of; the pairs of earlier phases. Writes:
    checkpoints (the pairs and, for what is learned of them, the best values, the average and the optimiser's moments), and the
    best and the starting pairs, including those of earlier phases. Of several numbers of pairs, for the largest.

    Args:
        earlier: number of pairs of earlier phases.
    """
    settings = experiment.distill
    objective: Objective = settings.objective
    reads = _of_snapshots(experiment, trace)
    pairs = max(settings.pairs)
    copies = 1 + len(settings.moments()) + bool(settings.ema)
    checkpoint = pairs * (trace.pair_bytes(pairs) + copies * trace.pair_bytes(pairs, settings.fixed()))
    checkpoints = settings.outer_steps // settings.checkpoint_every
    writes = checkpoints * checkpoint + 2 * (earlier + pairs) * trace.pair_bytes(earlier + pairs)
    stored = stored_inputs(experiment.model)
    reads_batches = "real_batches" in objective.needed()
    splits: dict[str, SplitRead] = {"val": stored}
    if settings.initialise.reads_real_pairs():
        # Reads only the blocks of the shards that contain the starting images. If the shards are small, these are all blocks.
        splits["train"] = "images"
        if reads_batches and stored == "features" and data is not None:
            reads += data.images["train"] * trace.image_input_bytes
    elif reads_batches:
        splits["train"] = stored
    elif settings.initialise.reads_captions():
        splits["train"] = "captions"
    if "expert_features" in settings.initialise.needed() and data is not None:
        # Joint features of the images and of one caption each, and the captions' numbers.
        reads += data.images["train"] * (2 * 4 * trace.joint_dim + 8)
    reads += 2 * earlier * trace.pair_bytes(earlier) + weights_bytes(experiment.model, trace)
    return traffic_of(splits, data, trace, reads=reads, writes=writes)


def _of_snapshots(experiment: Experiment, trace: MemoryTrace) -> int:
    """Bytes of the experts' snapshots that all ranks read, each rank on a machine of its own: each snapshot that can be drawn,
    once, and of repeated draws the share that does not fit into the node's cache."""
    settings, experts = experiment.distill, experiment.experts.count
    objective: Objective = settings.objective
    costs = objective.costs()
    different = costs.snapshots_read(experts, settings.outer_steps)
    if different == 0:
        return 0
    towers, image, reached = trace.trainable_bytes, experiment.model.image, objective.reached_epochs()
    snapshot = sum(towers.values())
    drawn, once = costs.snapshots_drawn(experts, settings.outer_steps) * snapshot, different * snapshot
    if image.train == "full" and image.head.kind == "none" and image.weights != "random" and 0 in reached:
        # All experts share one first snapshot of the image tower: it is stored and read once. Few steps may draw none.
        once = min(once, experts * len(reached) * snapshot - (experts - 1) * towers["image"])
    ranks = settings.workers
    # The number of copies of a snapshot that all ranks together read.
    copies = sum(_read_by_ranks(size, ranks, costs.reads_slices) for size in towers.values()) / snapshot
    of_rank = once * copies / ranks
    again = (drawn - once) * max(0, 1 - node_cache().limit_bytes / of_rank)
    return round(copies * (once + max(again, 0)))


def _read_by_ranks(size: int, ranks: int, slices: bool) -> float:
    """Bytes that all ranks together read of a tower's snapshot of `size` bytes; `slices`: see `ObjectiveCosts.reads_slices`."""
    if not slices or size < LARGE_BYTES:
        return ranks * size
    # Beside its part, a rank reads the block with the header and one at the part's edge.
    return min(ranks * size, max(1, ranks / PARTS) * size + (ranks > 1) * ranks * 2 * BLOCK_BYTES)
