"""Device memory of one rank of a distillation, with the sizes and the student of `memory_model`. Pure functions of sizes in
bytes."""

from dataclasses import dataclass

from vldd_dist.config.sections.distillation import DistillationSettings
from vldd_dist.cost_model.memory_model import (
    Sizes,
    Terms,
    first_order_memory,
    is_in_shards,
    peak,
    per_rank,
    student_memory,
)
from vldd_dist.cost_model.memory_trace import BackbonePass, FullGraph, SecondOrder
from vldd_dist.distillation.inner_batches import inner_batch_size
from vldd_dist.distillation.objectives.unrolled import UnrolledObjective
from vldd_dist.models.image.frozen_backbone import chunks_of, kept_chunks


@dataclass(frozen=True)
class PairSize:
    """Sizes of a synthetic pair in bytes.

    Attributes:
        whole: its pixels and its text.
        learned: the part of it that is learned.
        used: what an outer step uses of it: its text, and its pixels or, if the images are not learned, the features that a
            frozen backbone computed from them.
        kept: what a distillation keeps besides these: the features of images that are not learned.
    """

    whole: int
    learned: int
    used: int
    kept: int = 0


@dataclass(frozen=True)
class RealPass:
    """Sizes of an outer loss on real pairs, in bytes.

    Attributes:
        pairs: this rank's real pairs as they are read, and what an objective makes of them.
        first: peak of a forward and backward pass.
    """

    pairs: int
    first: int


@dataclass(frozen=True)
class UnrolledStep:
    """Sizes of an inner step over this rank's pairs and of the other passes of its outer step, in bytes.

    Attributes:
        batch: its pairs as the student gets them.
        passes: what the unroll's gradient needs: for `full` the graph of all steps; for `exact` and `tesla` a step that is
            differentiated twice; for finite differences the peak of a forward and backward pass.
        learned: the part of the batch that has a gradient; None: all of it.
        check: an inner step of the check of finite differences.
        backbone: a frozen backbone's pass over a chunk of images, and back to their pixels.
        real: of an outer loss on real pairs.
    """

    batch: int
    passes: FullGraph | SecondOrder | int
    learned: int | None = None
    check: SecondOrder | None = None
    backbone: BackbonePass | None = None
    real: RealPass | None = None

    @property
    def gradients(self) -> int:
        """Bytes of the batch's gradients."""
        return self.batch if self.learned is None else self.learned


@dataclass(frozen=True)
class FeatureMatchingStep:
    """Sizes of an outer step that unrolls no student, in bytes.

    Attributes:
        real: this rank's real pairs as they are read.
        backbone: the image backbone's pass over a chunk of synthetic images, and back to their pixels.
        kept: what an objective keeps of all real pairs.
        training: peak of a forward and backward pass of the model's training on the real pairs; None: it is not trained.
    """

    real: int
    backbone: BackbonePass
    kept: int = 0
    training: int | None = None


def unroll_memory(sizes: Sizes, step: UnrolledStep, settings: DistillationSettings) -> Terms:
    """The peak of an unroll, apart from the student, the expert's start and target snapshots, and the batches.

    With p = P / W, T steps, and b the bytes of the learned part of a step's batch; the start is the expert's snapshot:

    - snapshots: the student's at T - 1 steps, (T - 1) p (T p if steps before these are not differentiated), or p if they are
      offloaded. The backward sweep replaces them by the pairs' gradients, up to (T - 1) b, which count if they are larger. The
      forward scheme also keeps T b from the unroll.
    - vectors: adjoint and direction, 2 p; momentum adds the direction of the step before, p. Central differences add the next
      gradient, the shifted parameters and the gradient of the last step, 3 p and b; the forward scheme adds 2 p.
    - gathered: on several ranks, `exact` gathers parameters and direction, 2 P, and F if the parameters are in shards. Finite
      differences gather P unless the parameters are in shards.
    - activations, for ceil(B / W) pairs: for `exact` and `tesla`, graph, gradient and products of a step that is differentiated
      twice; on one rank, this or graph and gradient of the last step with 3 p for the student's end and the outer loss's
      differences and gradient. For `full`, the graph of all T steps. For finite differences, see `first_order_memory`.
    """
    objective: UnrolledObjective = settings.objective
    workers, in_shards, steps = settings.workers, is_in_shards(settings.sharding), objective.inner_steps
    p, b = per_rank(sizes.trainable, workers), step.gradients
    if isinstance(step.passes, FullGraph):
        return {"activations": step.passes.of_steps(steps)}
    waiting = snapshots_memory(objective, p)
    if isinstance(step.passes, int):
        central = objective.difference_scheme() == "central"
        return {
            "snapshots": max(waiting + (0 if central else steps * b), (steps - 1) * b),
            "vectors": 5 * p + b if central else 4 * p,
            "gathered": sizes.trainable if workers > 1 and not in_shards else 0,
            "activations": first_order_memory(sizes, step.passes, workers, settings.sharding),
        }
    vectors = (2 + objective.costs().has_momentum()) * p
    in_sweep = {"snapshots": max(waiting, (steps - 1) * b), "vectors": vectors, "activations": step.passes.peak}
    if is_sharded(settings):
        whole = 2 * sizes.trainable if workers > 1 else 0
        return in_sweep | {"gathered": whole + (sizes.frozen if in_shards else 0)}
    at_end = {"snapshots": waiting, "vectors": 3 * p, "activations": step.passes.graph}
    return max(in_sweep, at_end, key=peak)


def snapshots_memory(objective: UnrolledObjective, p: int) -> int:
    """The bytes of an unroll's snapshots of p bytes each, apart from its start."""
    if objective.offload_snapshots != "none":
        return p
    return p * min(objective.costs().longest_run() - 1, objective.inner_steps)


def is_sharded(settings: DistillationSettings) -> bool:
    """Whether the student for several ranks is used."""
    return settings.workers > 1 or settings.sharding != "none"


def pairs_memory(pairs: int, pair: PairSize, settings: DistillationSettings) -> Terms:
    """The memory of a rank's M / W pairs: their values and, for the learned part, the starting and the best values, the running
    average if there is one, and the optimiser's moments."""
    copies = 2 + bool(settings.ema) + len(settings.moments())
    return {"pairs": per_rank(pairs, settings.workers) * (pair.whole + pair.kept + copies * pair.learned)}


def distillation_memory(
    sizes: Sizes,
    step: UnrolledStep,
    pairs: int,
    pair: PairSize,
    settings: DistillationSettings,
    validation: Terms,
    held: int,
) -> Terms:
    """The peak of a distillation of M pairs, the maximum over the parts of an outer step and validation.

    - student, engine: see `student_memory`; pairs: see `pairs_memory`. These are always held.
    - expert: the `held` snapshots that are in memory at once, P / W each: start and target in trajectory matching, those of all
      experts for a teacher. batches: those of the steps of an unroll, and the pairs that they use. Both except in validation,
      but a teacher stays.
    - start, real batch: if the outer loss is on real pairs. Such an objective makes its start, p (shards are copied from kept
      ones), and keeps its real pairs in validation too.
    - unroll: see `unroll_memory`; and the graphs that a frozen backbone keeps.
    - or the check of finite differences: a small unroll by `exact`, with its snapshots, adjoint and direction.
    - or the outer loss on real pairs, if the objective has one: a pass, with the student's end and the adjoint. On one process
      the graph of the last step, or of all steps for `full`, waits meanwhile, and so do the kept graphs.
    - or the update of the pairs: a frozen backbone's backward pass to the pixels; then the outer optimiser, which needs six
      times the learned part of the used pairs.
    - or validation: see `evaluation_memory`.
    """
    objective: UnrolledObjective = settings.objective
    costs, workers, steps = objective.costs(), settings.workers, objective.inner_steps
    p = per_rank(sizes.trainable, workers)
    used, learned = (used_pairs(pairs, settings) * size for size in (pair.used, pair.learned))
    kept, back = backbone_memory(step.backbone, used_pairs(pairs, settings), settings)
    resident = student_memory(sizes, workers, settings.sharding) | pairs_memory(pairs, pair, settings)
    working = resident | {"expert": held * p, "batches": costs.longest_run() * step.batch + used}
    if step.real is not None:
        resident |= {"expert": held * p, "real batch": step.real.pairs}
        working |= {"start": (1 + is_sharded(settings)) * p, "real batch": step.real.pairs}
    gradients = {"pairs' gradients": steps * step.gradients + learned}
    moments = [
        working | unroll_memory(sizes, step, settings) | {"kept graphs": kept},
        working | gradients | {"pixels": back},
        working | gradients | {"outer optimiser": 6 * learned},
        resident | {f"validation: {name}": size for name, size in validation.items()},
    ]
    at_end = working | {"snapshots": snapshots_memory(objective, p), "vectors": 2 * p}
    if step.real is not None:
        real = first_order_memory(sizes, step.real.first, workers, settings.sharding) + _graph_at_end(step, settings)
        moments.append(at_end | {"outer loss": real, "kept graphs": kept})
    if step.check is not None:
        moments.append(at_end | {"check of differences": step.check.peak})
    return max(moments, key=peak)


def _graph_at_end(step: UnrolledStep, settings: DistillationSettings) -> int:
    """The bytes of the unroll's graph that is in memory while the outer loss is differentiated."""
    if is_sharded(settings) or isinstance(step.passes, int):
        return 0
    if isinstance(step.passes, FullGraph):
        return step.passes.of_steps(settings.objective.inner_steps)
    return step.passes.graph


def used_pairs(pairs: int, settings: DistillationSettings) -> int:
    """The largest number of the M pairs that a rank encodes in one outer step of an unrolled objective."""
    objective: UnrolledObjective = settings.objective
    batch = inner_batch_size(settings.batch_size, pairs)
    return min(pairs, objective.costs().longest_run() * per_rank(batch, settings.workers))


def backbone_memory(backbone: BackbonePass | None, images: int, settings: DistillationSettings) -> tuple[int, int]:
    """For a rank's images: the bytes of the graphs that are kept until the backward pass to the pixels, and the peak of that
    pass, including the graphs. Images that are not learned have no backward pass; their features are computed once."""
    if backbone is None:
        return 0, 0
    if "images" in settings.fixed():
        return 0, backbone.without_graph
    chunks = chunks_of(images)
    kept = kept_chunks(chunks, backbone.graph, settings.tower_graph_mib << 20)
    # The backward pass first uses the kept graphs, one by one. Then it runs the forward pass of the other chunks again.
    with_kept, recomputed = kept * backbone.graph + backbone.peak - backbone.graph, backbone.peak
    return kept * backbone.graph, max(with_kept if kept else 0, recomputed if kept < chunks else 0)


def other_distillation_memory(
    sizes: Sizes, step: FeatureMatchingStep, pairs: int, pair: PairSize, settings: DistillationSettings, validation: Terms
) -> Terms:
    """The peak of a distillation whose objective unrolls no student, the maximum over: the drawn pairs of the rank through the
    backbone and back, the outer optimiser's step, a training step of the model on real pairs, and the validation.

    - snapshots: P for the starting weights if it trains the model. Those of experts are merged in host memory.
    - real batch: this rank's rows of the step; real moments: what is kept of all real pairs.
    """
    objective, workers = settings.objective, settings.workers
    drawn = per_rank(objective.used_pairs(pairs), workers)
    learned, (_, back) = drawn * pair.learned, backbone_memory(step.backbone, drawn, settings)
    snapshots = int(objective.trains_model()) * sizes.trainable
    resident = student_memory(sizes, workers, "none") | pairs_memory(pairs, pair, settings) | {"snapshots": snapshots}
    working = resident | {"real batch": step.real, "real moments": step.kept}
    moments = [
        working | {"pairs' gradients": learned, "activations": back},
        working | {"pairs' gradients": learned, "outer optimiser": 6 * learned},
        resident | {f"validation: {name}": size for name, size in validation.items()},
    ]
    if step.training is not None:
        moments.append(working | {"activations": first_order_memory(sizes, step.training, workers, "none")})
    return max(moments, key=peak)
