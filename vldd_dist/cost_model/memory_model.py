"""Memory of one rank, in closed form around what a trace of its passes found. Pure functions of sizes in bytes.

Not counted: a GPU's context and libraries, the workspaces of their kernels, what the allocator cannot use again (`RESERVED` is
kept for them); recall's scores; the features of training images that an expert with a frozen backbone keeps. And the host's
memory: a worker that prepares data holds five shards at most (one that fills, one that is made, three that are written); with
1,000 images of 224 pixels in each these are 160 MiB.
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

# What a rank holds at its worst moment: name -> bytes.
Terms = dict[str, int]


@dataclass(frozen=True)
class Sizes:
    """A dual encoder.

    Attributes:
        trainable: P, what moves; a snapshot is as large.
        frozen: F, what does not.
        module: the largest single module.
        tower: what a frozen image tower has beside the model; none where the tower moves.
        block, outside: the largest of the blocks that FSDP gathers one by one, and what is in none of them.
    """

    trainable: int
    frozen: int
    module: int
    tower: int | None = None
    block: int = 0
    outside: int = 0


@dataclass(frozen=True)
class Step:
    """One step of this rank's pairs; of the passes those that its gradient takes.

    Attributes:
        batch: its pairs as the student gets them.
        learned: of these what has a gradient; none: all.
        first: a forward and backward pass.
        check: an inner step of the check of finite differences.
        tower: a frozen backbone's pass over a chunk of images and back to their pixels.
        encoding: a pass without a graph over the images that are encoded at once, images included.
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
        """Of the batch."""
        return self.batch if self.learned is None else self.learned


@dataclass(frozen=True)
class PairSize:
    """A synthetic pair.

    Attributes:
        whole: its pixels and its text.
        learned: of these what moves.
        used: what an outer step takes of it: its text, and its pixels or, where these stay as they are, what a frozen tower
            made of them.
        kept: what a run keeps of it beside them: the features of images that stay as they are.
    """

    whole: int
    learned: int
    used: int
    kept: int = 0


def peak(terms: Terms) -> int:
    """Bytes of all terms."""
    return sum(terms.values())


def per_rank(total: int, workers: int) -> int:
    """A rank's part."""
    return math.ceil(total / workers)


def student_memory(sizes: Sizes, workers: int, sharding: Sharding) -> Terms:
    """What a student takes before it does anything.

    - student: P + F on each rank; with zero3 (P + F) / W, the largest module whole and two buckets ahead of it; with fsdp
      (P + F) / W, what is outside of blocks, a block and the next one ahead of it, and what came of it from the ranks.
    - frozen tower: what it has beside the student, which holds none of it whole where it is in shards.
    - engine: of ZeRO a master copy P / W, which newer DeepSpeed does without with zero3, and gradients P / W; and a bucket of
      them, with zero1 and zero2 what P fills of it. Of FSDP gradients P / W; those of a block whole, twice, or those of what is
      outside.
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
    """A pass with its gradients: all P of them with none and zero1, which on several ranks are then copied into one vector
    to be summed; with others (`drops_gradients`) each goes into the engine's buckets as soon as it is made."""
    return first if workers == 1 or drops_gradients(sharding) else max(first, 2 * sizes.trainable)


def drops_gradients(sharding: Sharding) -> bool:
    """Whether no rank ever has the whole gradient."""
    return sharding not in ("none", "zero1")


def is_in_shards(sharding: Sharding) -> bool:
    """Whether no rank ever has all parameters."""
    return sharding in ("zero3", "fsdp")


def expert_memory(sizes: Sizes, step: Step, settings: ExpertSettings) -> Terms:
    """An expert's training step.

    - student, engine: see `student_memory`.
    - momentum: P, and P / W in shards; 0 without.
    - batch: the pairs of the step, ceil(B / W).
    - activations: see `first_order_memory`; or a batch of images encoded, as in validation; weight decay makes a copy of the
      gradients.
    """
    workers, sharding, p = settings.workers, settings.sharding, sizes.trainable
    assert step.first is not None
    owned = p if sharding == "none" else per_rank(p, workers)
    decayed = owned * (2 if settings.weight_decay else 1)
    activations = max(first_order_memory(sizes, step.first, workers, sharding), decayed, step.encoding)
    momentum = owned if settings.momentum else 0
    return student_memory(sizes, workers, sharding) | {"momentum": momentum, "batch": step.batch, "activations": activations}


def unroll_memory(sizes: Sizes, step: Step, settings: DistillSettings) -> Terms:
    """The worst moment of an unroll beside the student, both ends of the expert's way, and the batches.

    With p = P / W, b the bytes of what is learned of a step's batch and T steps; the start is the expert's:

    - snapshots: (T - 1) p, or the pairs' gradients (T - 1) b of the steps done where these are larger (then the sweep is at its
      first step); where snapshots are offloaded p, the one in use. The forward scheme keeps T b of the way there, too.
    - vectors: adjoint and direction 2 p. Differences add the gradient ahead, the shifted parameters and the last step's
      gradient, 3 p and b; the forward scheme 2 p.
    - gathered: `exact` on several ranks has parameters and direction whole, 2 P, and F in shards; differences P out of shards.
    - activations: of ceil(B / W) pairs. `exact`, `tesla`: graph, gradient and products of a step differentiated twice; or, on
      one rank, the graph and gradient with the end of the student's way, and the outer loss's differences and gradient, 3 p.
      `full`: all T steps. Differences: see `first_order_memory`.
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
    """Whether the student of several ranks is used."""
    return settings.workers > 1 or settings.sharding != "none"


def pairs_memory(pairs: int, pair: PairSize, settings: DistillSettings) -> Terms:
    """A rank's share, M / W pairs: their values; of what is learned start, best, the running average if there is one, and
    Adam's two moments or SGD's one."""
    moments = 2 if settings.optimiser == "adam" else int(settings.momentum > 0)
    copies = 2 + bool(settings.ema) + moments
    return {"pairs": per_rank(pairs, settings.workers) * (pair.whole + pair.kept + copies * pair.learned)}


def distillation_memory(
    sizes: Sizes, step: Step, pairs: int, pair: PairSize, settings: DistillSettings, validation: Terms, held: int = 2
) -> Terms:
    """A run with M pairs, at the worst of: the unroll, the check of differences, the pairs' own step, the validation.

    - student, engine: see `student_memory`; pairs: see `pairs_memory`.
    - expert: the snapshots held at once, P / W each: of trajectory matching start and target, of a teacher all its experts'.
    - batches: T b, and the images they use.
    - what `unroll_memory` says, beside the graphs that a frozen backbone keeps; finite differences are checked by a small
      unroll of `exact`, with its snapshots, adjoint and direction.
    - or, in its place, the outer loss on real pairs, where there is one, with the student's end and the adjoint.
    - or, in its place, what follows it: a frozen backbone's way to the pixels; the outer optimiser, six times what is learned
      of the used pairs.
    - or, in place of expert, batches and unroll, the validation: what `evaluation_memory` has.
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
    """How many of M pairs a rank encodes in an outer step of trajectory matching, at most."""
    batch = min(settings.batch_size or pairs, pairs)
    return min(pairs, settings.objective.inner_steps * per_rank(batch, settings.workers))


def tower_memory(tower: TowerPass | None, images: int, settings: DistillSettings) -> tuple[int, int]:
    """Of so many images of a rank: the graphs kept until their way back to the pixels, and that way's peak, graphs included.
    Images that keep their start have no way back; their features are made once."""
    if tower is None:
        return 0, 0
    if "images" in settings.fixed():
        return 0, tower.without_graph
    chunks = chunks_of(images)
    kept = kept_chunks(chunks, tower.graph, settings.tower_graph_mib << 20)
    # Kept graphs go first, one by one; then the other chunks pass again.
    first, again = kept * tower.graph + tower.peak - tower.graph, tower.peak
    return kept * tower.graph, max(first if kept else 0, again if kept < chunks else 0)


def other_distillation_memory(
    sizes: Sizes, step: Step, pairs: int, pair: PairSize, settings: DistillSettings, validation: Terms
) -> Terms:
    """A run whose objective unrolls no student, at the worst of: the way of the rank's drawn pairs through the tower and back,
    the outer optimiser's step over them, a training step of the model on real pairs, the validation.

    - snapshots: of an objective that reads experts three of P; where the model is trained its starting weights, P.
    - real batch: this rank's rows of the step; real moments: what is kept of all real pairs.
    """
    objective, workers = settings.objective, settings.workers
    own_pairs = per_rank(objective.used_pairs(pairs), workers)
    own, (_, back) = own_pairs * pair.learned, tower_memory(step.tower, own_pairs, settings)
    snapshots = (3 if "experts" in objective.needed() else int(objective.trains_model())) * sizes.trainable
    resident = student_memory(sizes, workers, "none") | pairs_memory(pairs, pair, settings) | {"snapshots": snapshots}
    working = resident | {"real batch": step.batch, "real moments": step.kept}
    moments = [
        working | {"pairs' gradients": own, "activations": back},
        working | {"pairs' gradients": own, "outer optimiser": 6 * own},
        resident | {f"validation: {name}": size for name, size in validation.items()},
    ]
    if step.first is not None:
        moments.append(working | {"activations": first_order_memory(sizes, step.first, workers, "none")})
    return max(moments, key=peak)


def evaluation_memory(sizes: Sizes, step: Step, settings: EvaluationSettings, workers: int = 1) -> Terms:
    """A student's training on pairs, whole on each rank, beside the pairs and the dual encoder that stands by.

    - student: P + F; best so far: the same, with more than one learning rate; momentum: P.
    - batch: the pairs of the step, ceil(B / W).
    - activations: see `first_order_memory`; or a batch of images encoded; weight decay makes a copy of the gradients.
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
    """A student's training on M pairs, from a trace of its passes."""
    rows = per_rank(min(settings.batch_size, pairs), workers)
    step = Step(
        rows * trace.input_bytes,
        first=trace.first_order(rows, training=True, of_batch=False, keep=True),
        encoding=trace.encoding(settings.encode_batch),
    )
    return evaluation_memory(sizes_of(trace), step, settings, workers)


def sizes_of(trace: MemoryTrace) -> Sizes:
    """Bytes of the traced dual encoder."""
    tower = trace.tower_bytes if trace.frozen_backbone else None
    return Sizes(
        sum(trace.trainable_bytes.values()),
        trace.frozen_bytes,
        trace.module_bytes,
        tower,
        trace.block_bytes,
        trace.outside_bytes,
    )
