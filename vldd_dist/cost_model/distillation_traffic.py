"""Bytes that a distillation reads from the store and writes to it."""

from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize, SplitRead, Traffic, stored_inputs, traffic_of, weights_bytes
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.distillation.objectives import Objective


def distillation_traffic(experiment: Experiment, trace: MemoryTrace, data: DataSize | None, earlier: int) -> Traffic:
    """Reads: each snapshot that can be drawn, once; what the starting pairs are made of; the pairs of earlier phases. Writes:
    checkpoints (the pairs and, for what is learned of them, the best values, the average and the optimiser's moments), and the
    best and the starting pairs, including those of earlier phases. Of several numbers of pairs, for the largest.

    Args:
        earlier: number of pairs of earlier phases.
    """
    settings = experiment.distill
    objective: Objective = settings.objective
    reads = 0
    if drawn := objective.costs().snapshots_read(experiment.experts.count, settings.outer_steps):
        snapshot, experts = sum(trace.trainable_bytes.values()), experiment.experts.count
        reads = drawn * snapshot
        image, reached = experiment.model.image, objective.reached_epochs()
        same_start = image.train == "full" and image.head.kind == "none" and image.weights != "random"
        if same_start and 0 in reached:
            # All experts share one first snapshot of the image tower: it is stored and read once. Few steps may draw none.
            reads = min(reads, experts * len(reached) * snapshot - (experts - 1) * trace.trainable_bytes["image"])
    checkpoint = trace.pair_bytes + (1 + len(settings.moments()) + bool(settings.ema)) * trace.learned_bytes(settings.fixed())
    checkpoints = settings.outer_steps // settings.checkpoint_every
    writes = max(settings.pairs) * checkpoints * checkpoint + 2 * (earlier + max(settings.pairs)) * trace.pair_bytes
    stored = stored_inputs(experiment.model)
    reads_batches = "real_batches" in objective.needed()
    splits: dict[str, SplitRead] = {"val": stored}
    if settings.initialise.reads_real_pairs():
        # Reads only the blocks of the shards that contain the starting images. If the shards are small, these are all blocks.
        splits["train"] = "images"
        if reads_batches and stored == "features" and data is not None:
            reads += data.images["train"] * (trace.input_bytes - 4 * trace.text_dim)
    elif reads_batches:
        splits["train"] = stored
    elif settings.initialise.reads_captions():
        splits["train"] = "captions"
    if "expert_features" in settings.initialise.needed() and data is not None:
        # Joint features of the images and of one caption each, and the captions' numbers.
        reads += data.images["train"] * (2 * 4 * trace.joint_dim + 8)
    reads += 2 * earlier * trace.pair_bytes + weights_bytes(experiment.model, trace)
    return traffic_of(splits, data, trace, reads=reads, writes=writes)
