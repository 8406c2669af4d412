"""Device memory of one rank: formulas that use the sizes found by tracing its passes. Pure functions of sizes in bytes.

Not counted are a GPU's context and libraries, the workspaces of their kernels, and fragmentation (`RESERVED` is kept free for
these); the scores from which recall is computed; and the features of training images that an expert with a frozen backbone
keeps. Host memory is not modelled. A worker that prepares data holds at most five shards (one being filled, one being encoded,
three being written), which is 160 MiB for shards of 1,000 images of 224 pixels.
"""

import math
from dataclasses import dataclass

from vldd_dist.config.base import Sharding
from vldd_dist.config.sections.distillation import DistillSettings
from vldd_dist.config.sections.evaluation import EvaluationSettings
from vldd_dist.config.sections.experts import ExpertSettings
from vldd_dist.cost_model.memory_trace import FullGraph, MemoryTrace, SecondOrder, TowerPass
from vldd_dist.distillation.objectives.trajectory_matching import TrajectoryMatching
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.models.image.frozen_tower import chunks_of, kept_chunks
from vldd_dist.sharding.deepspeed_engine import bucket_elements

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
        tower: what a frozen image tower holds besides the model; None if the tower is trained.
        block, outside: the largest of the blocks that FSDP gathers one by one, and the parameters outside these blocks.
    """

    trainable: int
    frozen: int
    module: int
    tower: int | None = None
    block: int = 0
    outside: int = 0


@dataclass(frozen=True)
class Step:
    """Sizes of one step over this rank's pairs, in bytes. Passes that the step does not use are None or 0.

    Attributes:
        batch: its pairs as the student gets them.
        learned: the part of the batch that has a gradient; None: all of it.
        first: peak of a forward and backward pass.
        check: an inner step of the check of finite differences.
        tower: a frozen backbone's pass over a chunk of images, and back to their pixels.
        encoding: peak of a pass without a graph over the images that are encoded at once, including the images.
        kept: what an objective keeps of all real pairs.
    """

    batch: int
    learned: int | None = None
    first: int | None = None
    second: SecondOrder | None = None
    full: FullGraph | None = None
    check: SecondOrder | None = None
    tower: TowerPass | None = None
    encoding: int = 0
    kept: int = 0

    @property
    def gradients(self) -> int:
        """Bytes of the batch's gradients."""
        return self.batch if self.learned is None else self.learned


@dataclass(frozen=True)
class PairSize:
    """Sizes of a synthetic pair in bytes.

    Attributes:
        whole: its pixels and its text.
        learned: the part of it that is learned.
        used: what an outer step uses of it: its text, and its pixels or, if the images are not learned, the features that a
            frozen tower computed from them.
        kept: what a run keeps besides these: the features of images that are not learned.
    """

    whole: int
    learned: int
    used: int
    kept: int = 0


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
    - frozen tower: what it holds besides the student. If the parameters are in shards, the student has no whole copy of the
      tower, so it is counted here.
    - engine: for ZeRO, a master copy P / W (which newer DeepSpeed does not need with zero3), gradients P / W, and a bucket of
      gradients, which with zero1 and zero2 is not larger than P. For FSDP, gradients P / W, those outside the blocks, and the
      larger of a block's whole gradients twice and those outside.
    """
    whole, part = sizes.trainable + sizes.frozen, per_rank(sizes.trainable, workers)
    bucket = FP32 * bucket_elements(whole // FP32)
    tower = {} if sizes.tower is None else {"frozen tower": sizes.tower + (sizes.frozen if is_in_shards(sharding) else 0)}
    if sharding == "none":
        return {"student": whole} | tower
    if sharding == "fsdp":
        student = per_rank(whole, workers) + sizes.outside + 3 * sizes.block
        engine = part + sizes.outside + max(2 * sizes.block, sizes.outside)
        return {"student": student, "engine": engine} | tower
    if not is_in_shards(sharding):
        return {"student": whole, "engine": 2 * part + min(sizes.trainable, bucket)} | tower
    student = per_rank(whole, workers) + sizes.module + min(whole, 2 * bucket)
    return {"student": student, "engine": 2 * part + bucket} | tower


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


def expert_memory(sizes: Sizes, step: Step, settings: ExpertSettings) -> Terms:
    """The peak of an expert's training step.

    - student, engine: see `student_memory`.
    - momentum: P, or P / W if an engine shards it; 0 without momentum.
    - batch: the ceil(B / W) pairs of the step.
    - activations: the largest of a pass (see `first_order_memory`), the gradients with weight decay's copy, and encoding a
      batch of images for validation.
    """
    workers, sharding, p = settings.workers, settings.sharding, sizes.trainable
    assert step.first is not None
    owned = p if sharding == "none" else per_rank(p, workers)
    decayed = owned * (2 if settings.weight_decay else 1)
    activations = max(first_order_memory(sizes, step.first, workers, sharding), decayed, step.encoding)
    momentum = owned if settings.momentum else 0
    return student_memory(sizes, workers, sharding) | {"momentum": momentum, "batch": step.batch, "activations": activations}


def unroll_memory(sizes: Sizes, step: Step, settings: DistillSettings) -> Terms:
    """The peak of an unroll, apart from the student, the expert's start and target snapshots, and the batches.

    With p = P / W, T steps, and b the bytes of the learned part of a step's batch; the start is the expert's snapshot:

    - snapshots: the student's at T - 1 steps, (T - 1) p, or p if they are offloaded. The backward sweep replaces them by the
      pairs' gradients, up to (T - 1) b, which count if they are larger. The forward scheme also keeps T b from the unroll.
    - vectors: adjoint and direction, 2 p. Central differences add the next gradient, the shifted parameters and the gradient of
      the last step, 3 p and b; the forward scheme adds 2 p.
    - gathered: on several ranks, `exact` gathers parameters and direction, 2 P, and F if the parameters are in shards. Finite
      differences gather P unless the parameters are in shards.
    - activations, for ceil(B / W) pairs: for `exact` and `tesla`, graph, gradient and products of a step that is differentiated
      twice; on one rank, this or graph and gradient of the last step with 3 p for the student's end and the outer loss's
      differences and gradient. For `full`, the graph of all T steps. For finite differences, see `first_order_memory`.
    """
    objective: UnrolledObjective = settings.objective
    workers, in_shards, steps = settings.workers, is_in_shards(settings.sharding), objective.inner_steps
    p, b = per_rank(sizes.trainable, workers), step.gradients
    if objective.gradient == "full":
        assert step.full is not None
        return {"activations": step.full.one + (steps - 1) * step.full.further}
    waiting = (steps - 1) * p if objective.offload_snapshots == "none" else p
    if objective.gradient == "finite_difference":
        assert step.first is not None
        assert isinstance(objective, TrajectoryMatching), "other objectives refuse finite differences"
        central = objective.difference == "central"
        return {
            "snapshots": max(waiting + (0 if central else steps * b), (steps - 1) * b),
            "vectors": 5 * p + b if central else 4 * p,
            "gathered": sizes.trainable if workers > 1 and not in_shards else 0,
            "activations": first_order_memory(sizes, step.first, workers, settings.sharding),
        }
    assert step.second is not None
    in_sweep = {"snapshots": max(waiting, (steps - 1) * b), "vectors": 2 * p, "activations": step.second.peak}
    if is_sharded(settings):
        whole = 2 * sizes.trainable if workers > 1 else 0
        return in_sweep | {"gathered": whole + (sizes.frozen if in_shards else 0)}
    at_end = {"snapshots": waiting, "vectors": 3 * p, "activations": step.second.graph}
    return max(in_sweep, at_end, key=peak)


def is_sharded(settings: DistillSettings) -> bool:
    """Whether the student for several ranks is used."""
    return settings.workers > 1 or settings.sharding != "none"


def pairs_memory(pairs: int, pair: PairSize, settings: DistillSettings) -> Terms:
    """The memory of a rank's M / W pairs: their values and, for the learned part, the starting and the best values, the running
    average if there is one, and the moments (two for Adam, one for SGD with momentum)."""
    moments = 2 if settings.optimiser == "adam" else int(settings.momentum > 0)
    copies = 2 + bool(settings.ema) + moments
    return {"pairs": per_rank(pairs, settings.workers) * (pair.whole + pair.kept + copies * pair.learned)}


def distillation_memory(
    sizes: Sizes, step: Step, pairs: int, pair: PairSize, settings: DistillSettings, validation: Terms, held: int = 2
) -> Terms:
    """The peak of a distillation of M pairs, the maximum over the parts of an outer step and validation.

    - student, engine: see `student_memory`; pairs: see `pairs_memory`. These are always held.
    - expert: the `held` snapshots that are in memory at once, P / W each: start and target in trajectory matching, those of all
      experts for a teacher. batches: the T batches of an unroll, and the pairs that they use. Both except in validation.
    - unroll: see `unroll_memory`; and the graphs that a frozen backbone keeps.
    - or the check of finite differences: a small unroll by `exact`, with its snapshots, adjoint and direction.
    - or the outer loss on real pairs, if the objective has one: a pass, with the student's end and the adjoint.
    - or the update of the pairs: a frozen backbone's backward pass to the pixels; then the outer optimiser, which needs six
      times the learned part of the used pairs.
    - or validation: see `evaluation_memory`.
    """
    objective: UnrolledObjective = settings.objective
    workers, steps, p = settings.workers, objective.inner_steps, per_rank(sizes.trainable, settings.workers)
    used, learned = (used_pairs(pairs, settings) * size for size in (pair.used, pair.learned))
    kept, back = tower_memory(step.tower, used_pairs(pairs, settings), settings)
    resident = student_memory(sizes, workers, settings.sharding) | pairs_memory(pairs, pair, settings)
    working = resident | {"expert": held * p, "batches": steps * step.batch + used}
    gradients = {"pairs' gradients": steps * step.gradients + learned}
    moments = [
        working | unroll_memory(sizes, step, settings) | {"kept graphs": kept},
        working | gradients | {"pixels": back},
        working | gradients | {"outer optimiser": 6 * learned},
        resident | {f"validation: {name}": size for name, size in validation.items()},
    ]
    waiting = (steps - 1) * p if objective.offload_snapshots == "none" else p
    if objective.real_rows():
        assert step.first is not None
        real = first_order_memory(sizes, step.first, workers, settings.sharding)
        moments.append(working | {"snapshots": waiting, "vectors": 2 * p, "outer loss": real})
    if step.check is not None:
        moments.append(working | {"snapshots": waiting, "vectors": 2 * p, "check of differences": step.check.peak})
    return max(moments, key=peak)


def used_pairs(pairs: int, settings: DistillSettings) -> int:
    """The largest number of the M pairs that a rank encodes in one outer step of an unrolled objective."""
    batch = min(settings.batch_size or pairs, pairs)
    return min(pairs, settings.objective.inner_steps * per_rank(batch, settings.workers))


def tower_memory(tower: TowerPass | None, images: int, settings: DistillSettings) -> tuple[int, int]:
    """For a rank's images: the bytes of the graphs that are kept until the backward pass to the pixels, and the peak of that
    pass, including the graphs. Images that are not learned have no backward pass; their features are computed once."""
    if tower is None:
        return 0, 0
    if "images" in settings.fixed():
        return 0, tower.without_graph
    chunks = chunks_of(images)
    kept = kept_chunks(chunks, tower.graph, settings.tower_graph_mib << 20)
    # The backward pass first uses the kept graphs, one by one. Then it runs the forward pass of the other chunks again.
    with_kept, recomputed = kept * tower.graph + tower.peak - tower.graph, tower.peak
    return kept * tower.graph, max(with_kept if kept else 0, recomputed if kept < chunks else 0)


def other_distillation_memory(
    sizes: Sizes, step: Step, pairs: int, pair: PairSize, settings: DistillSettings, validation: Terms
) -> Terms:
    """The peak of a distillation whose objective unrolls no student, the maximum over: the drawn pairs of the rank through the
    tower and back, the outer optimiser's step, a training step of the model on real pairs, and the validation.

    - snapshots: three of P if the objective reads experts; else P for the starting weights if it trains the model.
    - real batch: this rank's rows of the step; real moments: what is kept of all real pairs.
    """
    objective, workers = settings.objective, settings.workers
    drawn = per_rank(objective.used_pairs(pairs), workers)
    learned, (_, back) = drawn * pair.learned, tower_memory(step.tower, drawn, settings)
    snapshots = (3 if "experts" in objective.needed() else int(objective.trains_model())) * sizes.trainable
    resident = student_memory(sizes, workers, "none") | pairs_memory(pairs, pair, settings) | {"snapshots": snapshots}
    working = resident | {"real batch": step.batch, "real moments": step.kept}
    moments = [
        working | {"pairs' gradients": learned, "activations": back},
        working | {"pairs' gradients": learned, "outer optimiser": 6 * learned},
        resident | {f"validation: {name}": size for name, size in validation.items()},
    ]
    if step.first is not None:
        moments.append(working | {"activations": first_order_memory(sizes, step.first, workers, "none")})
    return max(moments, key=peak)


def evaluation_memory(sizes: Sizes, step: Step, settings: EvaluationSettings, workers: int = 1) -> Terms:
    """The peak of training a student on pairs, without the pairs and the dual encoder that the caller holds. Each rank has the
    whole student.

    - student: P + F. best so far: the same, if there are several learning rates. momentum: P.
    - batch: the ceil(B / W) pairs of the step.
    - activations: the largest of a pass (see `first_order_memory`), the gradients with weight decay's copy, and encoding.
    """
    assert step.first is not None
    p, whole = sizes.trainable, sizes.trainable + sizes.frozen
    in_step = first_order_memory(sizes, step.first, workers, "none")
    return {
        "student": whole,
        "best so far": whole if len(settings.learning_rates) > 1 else 0,
        "momentum": p if settings.momentum else 0,
        "batch": step.batch,
        "activations": max(in_step, p * (2 if settings.weight_decay else 1), step.encoding),
    }


def student_step_memory(trace: MemoryTrace, settings: EvaluationSettings, pairs: int, workers: int) -> Terms:
    """The peak of training a student on M pairs (`evaluation_memory`), from a trace of its passes."""
    rows = per_rank(min(settings.batch_size, pairs), workers)
    step = Step(
        rows * trace.input_bytes,
        first=trace.first_order(rows, training=True, of_batch=False, keep=True),
        encoding=trace.encoding(settings.encode_batch),
    )
    return evaluation_memory(sizes_of(trace), step, settings, workers)


def sizes_of(trace: MemoryTrace) -> Sizes:
    """The sizes of the traced dual encoder."""
    tower = trace.tower_bytes if trace.frozen_backbone else None
    return Sizes(
        sum(trace.trainable_bytes.values()),
        trace.frozen_bytes,
        trace.module_bytes,
        tower,
        trace.block_bytes,
        trace.outside_bytes,
    )
