"""Preparing data in this process without an experiment."""

import torch
from torch import Tensor

from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.sections.data import DataSettings
from vldd_dist.data.facts import CaptionEmbeddingsFacts
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings, ShardTexts
from vldd_dist.data.prepared.pieces import GROUPS, Pieces, encode_groups
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.data.embedding_group import EmbeddingGroupFacts
from vldd_dist.pipeline.work_unit import in_dependency_order
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import run


def prepare(store: Store, settings: DataSettings) -> Dataset:
    """The prepared data set of a source."""
    unit = Graph(Experiment(name="prepared", data=settings, distill={"pairs": [2]})).unit("dataset")
    run(store, in_dependency_order([unit]))
    return Dataset(UnitReader(store, unit.kind, unit.id))


def embed(dataset: Dataset, vectors: dict[str, Tensor]) -> CaptionEmbeddings:
    """Caption embeddings in the store with the given values: caption -> vector (D,)."""
    store, groups = dataset.reader.store, {}
    dim = len(next(iter(vectors.values())))
    by_group: dict[str, list[tuple[str, list[list[str]]]]] = {}
    for info in dataset.splits.values():
        for shard in info.shards:
            captions = [line.captions for line in dataset.lines(shard)]
            by_group.setdefault(shard.group, []).append((shard.name, captions))
    for group, shards in by_group.items():
        writer = UnitWriter(store, "embedding_group", group, {}, {})
        for name, images in shards:
            rows = torch.stack([vectors[caption] for captions in images for caption in captions])
            first = torch.tensor([0, *(len(captions) for captions in images)]).cumsum(0)
            writer.put(f"{name}.safetensors", tensors.encode(ShardTexts(rows, first).as_piece()))
        writer.commit(EmbeddingGroupFacts(captions=0, distinct=0, dim=dim, encoder={}))
        groups[group] = group
    writer = UnitWriter(store, "caption_embeddings", dataset.reader.manifest.unit, {}, {})
    writer.put(GROUPS, encode_groups(groups))
    writer.commit(CaptionEmbeddingsFacts(captions=0, dim=dim, encoder={}))
    index = UnitReader(store, "caption_embeddings", dataset.reader.manifest.unit)
    return CaptionEmbeddings(dataset.splits, Pieces(index, "embedding_group"), dim)
