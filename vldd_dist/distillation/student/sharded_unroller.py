"""The student's unroll on several ranks, or on an engine that shards its parameters."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vldd_dist.config.base import Sharding
from vldd_dist.distillation.real_data.real_rows import RealRows
from vldd_dist.distillation.student.sharded_derivatives import ShardedDoubleBackward, ShardedFirstOrder
from vldd_dist.distillation.student.student import StepInputs
from vldd_dist.distillation.student.unroller import (
    CHECKED_PAIRS,
    FeatureLoss,
    StudentUnroll,
    Unroller,
    UnrollSettings,
    in_mode,
)
from vldd_dist.distillation.unroll import (
    DifferenceSettings,
    EpsilonChoice,
    FirstOrder,
    Gradient,
    OuterLoss,
    SnapshotStack,
    StepDerivatives,
    Tensors,
    Unroll,
    UnrollResult,
    choose_epsilon,
    swept_gradient,
)
from vldd_dist.distillation.unroll.finite_difference import all_bits_of_fp32
from vldd_dist.distillation.unroll.protocol import replayed_randomness
from vldd_dist.models.attention import set_unfused_attention
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.fresh_weights import FreshWeights
from vldd_dist.models.losses import Loss
from vldd_dist.models.parameters import TOWERS, ParameterView
from vldd_dist.plugins import GRADIENTS
from vldd_dist.sharding.engines.sharded_model import shard_model
from vldd_dist.sharding.engines.skeleton import Skeleton
from vldd_dist.sharding.ranks import Ranks


class ShardedUnroller(Unroller):
    """An unroller on several ranks, or with an engine on one; for any gradient except `full`.

    Args:
        model: the same on every rank; it is replicated or sharded here.
        batch_size: pairs of an inner step, over all ranks.
    """

    def __init__(
        self,
        model: DualEncoder,
        loss: Loss,
        settings: UnrollSettings,
        snapshots: SnapshotStack | None,
        ranks: Ranks,
        sharding: Sharding,
        batch_size: int,
    ) -> None:
        super().__init__(model, settings, snapshots)
        self.ranks = ranks
        model.train(settings.dropout)
        model.gather_rows = ranks.rows_gatherer(batch_size)
        view = ParameterView(model)
        self.names = view.names
        self.skeleton = Skeleton(model)
        set_unfused_attention(self.skeleton.model)
        self.fresh_weights = FreshWeights(model)
        # The engine requires an optimiser, but its steps are never taken: the unroll writes the parameters itself.
        engine = shard_model(model, torch.optim.SGD(view.parameters, lr=1.0), sharding, ranks)
        self.layout = engine.layout
        self.first_order = ShardedFirstOrder(engine, model, loss, ranks)
        owned = list(zip(view.names, view.tower_names, self.layout.own, strict=True))
        self.snapshot_slices = {
            tower: {name: elements for name, owner, elements in owned if owner == tower} for tower in TOWERS
        }

    def theta(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Tensors:
        snapshot, device = {**image, **text}, self.model.mean.device
        return tuple(snapshot[name].to(device) for name in self.names)

    def fresh_starts(self) -> Callable[[int], Tensors]:
        starting_shards = self.first_order.engine.read()

        def start(seed: int) -> Tensors:
            drawn = self.fresh_weights.draw(seed)
            # Copied, because a slice would keep the whole parameter in memory.
            return [
                drawn[name].flatten()[slice(*own)].to(shard, copy=True) if name in drawn else shard.clone()
                for name, own, shard in zip(self.names, self.layout.own, starting_shards, strict=True)
            ]

        return start

    @torch.no_grad()
    def features(self, theta: Tensors, rows: RealRows) -> tuple[Tensor, Tensor]:
        with in_mode(self.model, training=False), self._gathering(rows.total):
            self.first_order.engine.write(theta)
            features: tuple[Tensor, Tensor] = self.first_order.engine(rows.inputs, rows.texts)
            return features

    def loss_of_rows(self, rows: RealRows, seed: int, loss: FeatureLoss) -> OuterLoss:
        engine, world_size = self.first_order.engine, self.ranks.world_size

        def outer(theta: Tensors) -> Tensor:
            with in_mode(self.model, training=True), self._gathering(rows.total):
                engine.write(theta)
                with torch.enable_grad(), replayed_randomness(seed, 0, rows.inputs.device):
                    value = loss(*engine(rows.inputs, rows.texts))
                    gradient = engine.backward(value / world_size)
            # An engine has no autograd graph from its shards to the loss. These terms are zero and have the gradient that the
            # engine computed, so that autograd finds it.
            linear = [((shard - shard.detach()) * part).sum() for shard, part in zip(theta, gradient, strict=True)]
            return (value.detach() + torch.stack(linear).sum())[None]

        return outer

    def check_differences(self, student_unroll: StudentUnroll, epsilon_in_use: float | None) -> EpsilonChoice:
        world_size = self.ranks.world_size
        smallest = self.ranks.all_gather(min(len(batch[0]) for batch in student_unroll.unroll.batches))
        # The same number on every rank.
        rows = min(max(CHECKED_PAIRS // world_size, 1), *smallest)
        few_pairs = student_unroll.of_few_pairs(rows)
        # The reference must be more exact than the differences: TF32 convolutions are not.
        with self._gathering(rows * world_size), all_bits_of_fp32():
            fits = self.ranks.all_agree(self._exact_fits())
            exact = self.gradient(few_pairs, method=GRADIENTS.load("exact")) if fits else None
            by_differences, inner_products = partial(self.gradient, few_pairs), self.first_order.inner_products
            return choose_epsilon(by_differences, exact, inner_products, epsilon_in_use)

    def _differentiate(
        self, method: Gradient, unroll: Unroll, step_inputs: StepInputs, differences: DifferenceSettings
    ) -> UnrollResult:
        assert method.derivatives is not None, "`full` needs one process: the description was checked for that"
        passes = _ShardedPasses(self.first_order.with_inputs(step_inputs), self.skeleton)
        derivatives = method.derivatives(passes, differences)
        result = swept_gradient(unroll, derivatives, update_adjoint=method.update_adjoint, snapshots=self.snapshots)
        # Each rank has the gradient of its own share of the loss.
        return replace(result, shared_gradients=[self.ranks.sum_in_place(share) for share in result.shared_gradients])

    @contextmanager
    def _gathering(self, total: int) -> Iterator[None]:
        """Within the `with` block, the model gathers batches of `total` rows over all ranks."""
        before = self.model.gather_rows
        self.model.gather_rows = self.skeleton.model.gather_rows = self.ranks.rows_gatherer(total)
        try:
            yield
        finally:
            self.model.gather_rows = self.skeleton.model.gather_rows = before

    def _exact_fits(self) -> bool:
        """Whether the memory of `exact` fits in half of this rank's device: unsharded theta, v, gradient and products, and as
        much for the graph. The memory that is free now could be another answer after a resume."""
        device = self.model.mean.device
        if device.type != "cuda":
            return True
        _, total = torch.cuda.mem_get_info(device)
        whole = sum(shape.numel() for shape in self.layout.shapes) * torch.float32.itemsize
        return 16 * whole < total


class _ShardedPasses:
    """Implements `unroll.Passes` for a student on several ranks."""

    def __init__(self, first_order: ShardedFirstOrder, skeleton: Skeleton) -> None:
        self._first_order, self._skeleton = first_order, skeleton

    def first_order(self) -> FirstOrder:
        return self._first_order

    def second_order(self) -> StepDerivatives:
        return ShardedDoubleBackward(self._first_order, self._skeleton)
