"""Device memory of one rank: formulas that use the sizes found by tracing its passes. Pure functions of sizes in bytes.

Not counted are a GPU's context and libraries, the workspaces of their kernels, and fragmentation (`RESERVED` is kept free for
these); the scores from which recall is computed; and the features of training images that an expert with a frozen backbone
keeps. Host memory is not modelled. A worker that prepares data holds at most five shards (one being filled, one being encoded,
three being written), which is 160 MiB for shards of 1,000 images of 224 pixels.
"""

import math
from dataclasses import dataclass

from vldd_dist.config.base import Sharding
from vldd_dist.config.sections.evaluation import EvaluationProtocol
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.cost_model.feature_trace import on_features
from vldd_dist.cost_model.memory_trace import MemoryTrace
from vldd_dist.sharding.engines.deepspeed_engine import bucket_elements

GIB = 2**30
RESERVED = 1 * GIB
FP32 = 4

# What a rank holds at its peak: name -> bytes.
Terms = dict[str, int]


@dataclass(frozen=True)
class Sizes:
    """Sizes of a dual encoder in bytes.

    Attributes:
        trainable: P, the trainable parameters; a snapshot has the same size.
        frozen: F, the frozen parameters.
        module: the parameters of the largest single module.
        frozen_backbone: what a frozen image backbone holds besides the model; None if the backbone is trained.
        block, outside: the largest of the blocks that FSDP gathers one by one, and the parameters outside these blocks.
    """

    trainable: int
    frozen: int
    module: int
    frozen_backbone: int | None = None
    block: int = 0
    outside: int = 0


@dataclass(frozen=True)
class TrainingStep:
    """Sizes of a training step of an expert or of an evaluation's student over this rank's pairs, in bytes.

    Attributes:
        batch: its pairs.
        first: peak of a forward and backward pass.
        encoding: the largest peak of a pass without a graph, such as over the images that are encoded at once.
    """

    batch: int
    first: int
    encoding: int = 0


def peak(terms: Terms) -> int:
    """The sum of all terms, in bytes."""
    return sum(terms.values())


def per_rank(total: int, workers: int) -> int:
    """One rank's part of a total, rounded up."""
    return math.ceil(total / workers)


def student_memory(sizes: Sizes, workers: int, sharding: Sharding) -> Terms:
    """The memory of a student before its first pass.

    - student: P + F on each rank. With zero3: (P + F) / W, one whole module (the largest), and two prefetched buckets. With
      fsdp: (P + F) / W, the parameters outside the blocks, the present block, the prefetched next block, and the buffer into
      which that was gathered.
    - frozen backbone: what it holds besides the student. If the parameters are in shards, the student has no whole copy of the
      backbone, so it is counted here.
    - engine: for ZeRO, a master copy P / W (which newer DeepSpeed does not need with zero3), gradients P / W, and a bucket of
      gradients, which with zero1 and zero2 is not larger than P. For FSDP, gradients P / W, those outside the blocks, and the
      larger of a block's whole gradients twice and those outside.
    """
    whole, part = sizes.trainable + sizes.frozen, per_rank(sizes.trainable, workers)
    bucket = FP32 * bucket_elements(whole // FP32)
    backbone = (
        {}
        if sizes.frozen_backbone is None
        else {"frozen backbone": sizes.frozen_backbone + (sizes.frozen if is_in_shards(sharding) else 0)}
    )
    if sharding == "none":
        return {"student": whole} | backbone
    if sharding == "fsdp":
        student = per_rank(whole, workers) + sizes.outside + 3 * sizes.block
        engine = part + sizes.outside + max(2 * sizes.block, sizes.outside)
        return {"student": student, "engine": engine} | backbone
    if not is_in_shards(sharding):
        return {"student": whole, "engine": 2 * part + min(sizes.trainable, bucket)} | backbone
    student = per_rank(whole, workers) + sizes.module + min(whole, 2 * bucket)
    return {"student": student, "engine": 2 * part + bucket} | backbone


def first_order_memory(sizes: Sizes, first: int, workers: int, sharding: Sharding) -> int:
    """The peak of a forward and backward pass with its gradients. With none and zero1, a rank holds all P of them, and copies
    them into one vector to sum them over the ranks. With the others (`drops_gradients`), each gradient goes into the engine's
    buckets as soon as it is computed."""
    return first if workers == 1 or drops_gradients(sharding) else max(first, 2 * sizes.trainable)


def drops_gradients(sharding: Sharding) -> bool:
    """Whether no rank ever holds the whole gradient."""
    return sharding not in ("none", "zero1")


def is_in_shards(sharding: Sharding) -> bool:
    """Whether no rank ever holds all parameters."""
    return sharding in ("zero3", "fsdp")


def expert_memory(sizes: Sizes, step: TrainingStep, settings: ExpertSettings) -> Terms:
    """The peak of an expert's training step.

    - student, engine: see `student_memory`.
    - momentum: P, or P / W if an engine shards it; 0 without momentum.
    - batch: the ceil(B / W) pairs of the step.
    - activations: the largest of a pass (see `first_order_memory`), the gradients with weight decay's copy, and a pass without
      a graph.
    """
    workers, sharding, p = settings.workers, settings.sharding, sizes.trainable
    owned = p if sharding == "none" else per_rank(p, workers)
    decayed = owned * (2 if settings.weight_decay else 1)
    activations = max(first_order_memory(sizes, step.first, workers, sharding), decayed, step.encoding)
    momentum = owned if settings.momentum else 0
    return student_memory(sizes, workers, sharding) | {"momentum": momentum, "batch": step.batch, "activations": activations}


def evaluation_memory(sizes: Sizes, step: TrainingStep, settings: EvaluationProtocol, workers: int) -> Terms:
    """The peak of training a student on pairs, without the pairs and the dual encoder that the caller holds. Each rank has the
    whole student.

    - student: P + F. best so far: the same, if there are several learning rates. momentum: P.
    - batch: the ceil(B / W) pairs of the step.
    - activations: the largest of a pass (see `first_order_memory`), the gradients with weight decay's copy, and encoding.
    """
    p, whole = sizes.trainable, sizes.trainable + sizes.frozen
    in_step = first_order_memory(sizes, step.first, workers, "none")
    return {
        "student": whole,
        "best so far": whole if len(settings.learning_rates) > 1 else 0,
        "momentum": p if settings.momentum else 0,
        "batch": step.batch,
        "activations": max(in_step, p * (2 if settings.weight_decay else 1), step.encoding),
    }


def student_step_memory(trace: MemoryTrace, settings: EvaluationProtocol, pairs: int, workers: int) -> Terms:
    """The peak of training a student on M pairs (`evaluation_memory`), from a trace of its passes. Before it is trained, the
    pairs pass a frozen backbone; when its recall is measured, images are encoded or, if they are stored, features of images."""
    measured = on_features(trace, trace.settings) if trace.has_features else trace
    rows = per_rank(min(settings.batch_size, pairs), workers)
    step = TrainingStep(
        rows * trace.input_bytes(pairs),
        first=trace.first_order(rows, training=True, of_batch=False, keep=True),
        encoding=max(trace.inputs_of_pairs(per_rank(pairs, workers)), measured.encoding(settings.encode_batch)),
    )
    return evaluation_memory(sizes_of(trace), step, settings, workers)


def sizes_of(trace: MemoryTrace) -> Sizes:
    """The sizes of the traced dual encoder."""
    backbone = trace.frozen_backbone_bytes if trace.freezes_backbone else None
    return Sizes(
        sum(trace.trainable_bytes.values()),
        trace.frozen_bytes,
        trace.module_bytes,
        backbone,
        trace.block_bytes,
        trace.outside_bytes,
    )
