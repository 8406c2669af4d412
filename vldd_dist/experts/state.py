"""What an expert stores after each epoch: a checkpoint to resume from, and snapshots for its trajectory.

Objects of a checkpoint (`row_files` of them if there are several ranks):

    epoch-NNNN/image.safetensors, text    the parameters by tower (`snapshot_parts`); if the epoch is kept, the snapshots' blobs
                                          themselves
    momentum.safetensors                  flat tensors (n,) by parameter name
    forgetting.safetensors                counts, equal on all ranks
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from vldd_dist.artifacts.checkpoints import Checkpoint
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.row_files import concatenated, row_file_name, row_files_of
from vldd_dist.artifacts.tensor_files.snapshot_parts import decode_snapshot, encode_snapshot
from vldd_dist.artifacts.tensor_files.trajectories import snapshot_name, snapshot_stem, write_snapshots
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.experts.forgetting import ForgettingCounts
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.parameters import TOWERS
from vldd_dist.sharding.checkpoints import newest_checkpoint, save_together
from vldd_dist.sharding.engines.sharded_model import ShardedModel
from vldd_dist.sharding.engines.skeleton import Skeleton
from vldd_dist.sharding.ranks import Ranks
from vldd_dist.store.async_writer import AsyncWriter
from vldd_dist.store.objects import ObjectInfo


class ExpertState:
    """Saves an expert's checkpoints and snapshots, and restores the newest checkpoint.

    Args:
        model: the dual encoder that `engine` holds.

    Attributes:
        snapshots: the kept snapshots written so far: object name -> description.
    """

    def __init__(self, engine: ShardedModel, model: DualEncoder, skeleton: Skeleton, writer: UnitWriter, ranks: Ranks) -> None:
        self.engine, self.model, self.skeleton, self.writer, self.ranks = engine, model, skeleton, writer, ranks
        self.names, self.tower_names = skeleton.view.names, skeleton.view.tower_names
        self.snapshots: dict[str, ObjectInfo] = {}

    @contextmanager
    def whole(self) -> Iterator[DualEncoder]:
        """Within the `with` block, the expert has all its parameters on this rank, so that its recall can be measured."""
        if not self.engine.in_shards:
            yield self.model
            return
        with self.skeleton.whole(self.engine) as model:
            yield model

    def save(self, epoch: int, keep: bool, forgetting: ForgettingCounts, facts: dict[str, Any], uploads: AsyncWriter) -> None:
        """Save a checkpoint of the epoch. The tensors are copied before this returns, so training can go on.

        Args:
            keep: whether the trajectory keeps this epoch. Its snapshots are then written as blobs, which the checkpoint lists.
        """
        rank, world = self.ranks.rank, self.ranks.world_size
        shards = dict(zip(self.names, self.engine.read(), strict=True))
        momentum = dict(zip(self.names, self.engine.read_momentum(), strict=False))
        parameters = {tower: self._encoded(tower, shards) for tower in TOWERS}
        objects = {row_file_name("momentum", rank, world): tensors.encode(momentum)}
        if self.ranks.is_main:
            objects["forgetting.safetensors"] = tensors.encode(forgetting.as_tensors())
        if not keep:
            objects |= {snapshot_name(epoch, tower, rank, world): data for tower, data in parameters.items()}

        def write_kept() -> None:
            if keep:
                for infos in self.ranks.all_gather(write_snapshots(self.writer, epoch, parameters, rank, world)):
                    self.snapshots.update(infos)

        def record() -> tuple[dict[str, Any], Mapping[str, ObjectInfo]]:
            stems = tuple(snapshot_stem(epoch, tower) for tower in TOWERS)
            of_epoch = {name: info for name, info in self.snapshots.items() if name.startswith(stems)}
            return facts | {"snapshots": {name: info.model_dump() for name, info in self.snapshots.items()}}, of_epoch

        save_together(self.writer, self.ranks, epoch, objects, record, uploads, write_kept)

    def _encoded(self, tower: str, shards: dict[str, Tensor]) -> bytes:
        layout = self.engine.layout
        of_tower = {name for name, owner in zip(self.names, self.tower_names, strict=True) if owner == tower}
        owned = {name: own for name, own in zip(self.names, layout.own, strict=True) if name in of_tower}
        shapes = {name: shape for name, shape in zip(self.names, layout.shapes, strict=True) if name in of_tower}
        return encode_snapshot({name: shards[name] for name in owned}, owned, shapes, self.ranks.world_size)

    def restore(self) -> tuple[int, ForgettingCounts, dict[str, Any]] | None:
        """Load the newest checkpoint into the model. Returns (epoch, counts, facts), or None if there is no checkpoint."""
        checkpoint = newest_checkpoint(self.writer, self.ranks)
        if checkpoint is None:
            return None
        parameters: dict[str, Tensor] = {}
        for tower in TOWERS:
            parameters |= decode_snapshot(*_read(checkpoint, snapshot_stem(checkpoint.step, tower)))
        self.engine.write(self._shards(parameters))
        contents, sources = _read(checkpoint, "momentum")
        flat = (tensors.decode(data, source) for data, source in zip(contents, sources, strict=True))
        self.engine.write_momentum(self._shards(concatenated(flat, sources[0])))
        self.snapshots = {name: ObjectInfo(**info) for name, info in checkpoint.facts["snapshots"].items()}
        counts = tensors.decode(checkpoint.read("forgetting.safetensors"), f"epoch {checkpoint.step}")
        return checkpoint.step, ForgettingCounts(**counts), checkpoint.facts

    def _shards(self, whole: Mapping[str, Tensor]) -> list[Tensor]:
        """This rank's shards of whole tensors; empty if there are none."""
        device = self.skeleton.model.mean.device
        return self.engine.layout.cut([whole[name].to(device) for name in self.names]) if whole else []


def _read(checkpoint: Checkpoint, name: str) -> tuple[list[bytes], list[str]]:
    """The contents of the row files of `name`, whatever number of ranks wrote them, and what messages call each."""
    files = row_files_of(name, checkpoint.names, f"{name} of the checkpoint of epoch {checkpoint.step}")
    return [checkpoint.read(file) for file in files], [f"{file} of the checkpoint of epoch {checkpoint.step}" for file in files]
