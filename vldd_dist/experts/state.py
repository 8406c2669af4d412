"""What an expert keeps after each epoch: snapshots for its trajectory, and a checkpoint to go on from.

parameters.safetensors, momentum.safetensors    of a checkpoint: flat tensors (n,) by name; of several ranks in parts
forgetting.safetensors                          counts, alike on all ranks
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from vldd_dist.artifacts import tensors
from vldd_dist.artifacts.parts import joined, part_name, parts_of
from vldd_dist.artifacts.trajectories import encode_shards, write_snapshots
from vldd_dist.artifacts.units import Checkpoint, UnitWriter
from vldd_dist.experts.forgetting import ForgettingCounts
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import TOWERS
from vldd_dist.sharding.checkpoints import newest_checkpoint, save_together
from vldd_dist.sharding.engine import ShardedModel
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.sharding.skeleton import Skeleton
from vldd_dist.store.async_writer import AsyncWriter
from vldd_dist.store.objects import ObjectInfo


class ExpertState:
    """Args:
        encoder: what the model was made of.

    Attributes:
        snapshots: what lies in the store of the trajectory: name -> where.
    """

    def __init__(self, model: ShardedModel, encoder: DualEncoder, skeleton: Skeleton, writer: UnitWriter, ranks: Ranks) -> None:
        self.model, self.encoder, self.skeleton, self.writer, self.ranks = model, encoder, skeleton, writer, ranks
        self.names, self.towers = skeleton.view.names, skeleton.view.towers
        self.snapshots: dict[str, ObjectInfo] = {}

    @contextmanager
    def whole(self) -> Iterator[DualEncoder]:
        """The expert with all its parameters here, for measuring it."""
        if not self.model.in_shards:
            yield self.encoder
            return
        with self.skeleton.whole(self.model) as model:
            yield model

    def save(self, epoch: int, keep: bool, forgetting: ForgettingCounts, facts: dict[str, Any], uploads: AsyncWriter) -> None:
        """Checkpoint an epoch, from copies made here; `keep`: its snapshots too."""
        shards = dict(zip(self.names, self.model.read(), strict=True))
        momentum = dict(zip(self.names, self.model.read_momentum(), strict=False))
        rank, world = self.ranks.rank, self.ranks.world_size
        objects = {
            part_name("parameters", rank, world): tensors.encode(shards),
            part_name("momentum", rank, world): tensors.encode(momentum),
        }
        if self.ranks.is_main:
            objects["forgetting.safetensors"] = tensors.encode(forgetting.as_tensors())
        kept = {tower: self._encoded(tower, shards) for tower in TOWERS} if keep else {}

        def write_facts() -> dict[str, Any]:
            return facts | {"snapshots": {name: info.model_dump() for name, info in self.snapshots.items()}}

        if world == 1:
            uploads.submit(lambda: self._keep(epoch, kept))
        else:
            for infos in self.ranks.all_gather(write_snapshots(self.writer, epoch, kept, rank, world)):
                self.snapshots |= infos
        save_together(self.writer, self.ranks, epoch, objects, write_facts, uploads)

    def _keep(self, epoch: int, kept: dict[str, bytes]) -> None:
        self.snapshots |= write_snapshots(self.writer, epoch, kept)

    def _encoded(self, tower: str, shards: dict[str, Tensor]) -> bytes:
        shapes = dict(zip(self.names, self.model.layout.shapes, strict=True))
        owned = {name: shards[name] for name, owner in zip(self.names, self.towers, strict=True) if owner == tower}
        if self.ranks.world_size == 1:
            return tensors.encode({name: shard.view(shapes[name]) for name, shard in owned.items()})
        return encode_shards(owned, {name: shapes[name] for name in owned})

    def restore(self) -> tuple[int, ForgettingCounts, dict[str, Any]] | None:
        """The newest checkpoint, put into the model: (epoch, counts, facts); none if there is none."""
        checkpoint = newest_checkpoint(self.writer, self.ranks)
        if checkpoint is None:
            return None
        self.model.write(self._shards(checkpoint, "parameters"))
        self.model.write_momentum(self._shards(checkpoint, "momentum"))
        self.snapshots = {name: ObjectInfo(**info) for name, info in checkpoint.facts["snapshots"].items()}
        counts = tensors.decode(checkpoint.read("forgetting.safetensors"), f"epoch {checkpoint.step}")
        return checkpoint.step, ForgettingCounts(**counts), checkpoint.facts

    def _shards(self, checkpoint: Checkpoint, name: str) -> list[Tensor]:
        """This rank's, from the parts of however many wrote them."""
        source = f"{name} of epoch {checkpoint.step}"
        parts = parts_of(name, checkpoint.names, source)
        whole = joined((tensors.decode(checkpoint.read(part), source) for part in parts), source)
        device = self.skeleton.model.mean.device
        flat: list[Tensor] = [whole[each].to(device) for each in self.names] if whole else []
        return self.model.layout.cut(flat) if flat else []
