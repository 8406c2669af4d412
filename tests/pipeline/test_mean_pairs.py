"""A coreset of means: averages of pixels and embeddings of the real pairs in its facts, with the captions of the selection."""

from collections.abc import Callable

import pytest
import torch

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import choose
from vldd_dist.coresets.base import groups
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.data.prepared.batches import mean_pairs
from vldd_dist.pipeline.context import read_tensors
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.plugins import CORESETS
from vldd_dist.seeding import numpy_generator
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of, workspace


def test_prototypes_are_means_of_pixels_and_embeddings(
    without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mean_pairs, "CHUNK", 5)
    store, tree = without("coreset"), experiment("coresets.methods=[prototypes]")
    run(store, [unit for unit in Graph(tree).units() if unit.kind in ("features", "coreset")])
    (features,), (unit,) = units_of(tree, "features"), units_of(tree, "coreset")
    joint = read_tensors(UnitReader(store, "features", features.id), "features.safetensors")
    given = Candidates(48, joint["image"], joint["text"], caption=joint["caption"])
    found = groups(choose(CORESETS, "prototypes"), given, 4, numpy_generator(0, "coreset", "prototypes", 4))
    reader, room = UnitReader(store, "coreset", unit.id), workspace(store, unit)
    pairs, images = read_tensors(reader, "pairs.safetensors"), room.dataset.images("train").double()
    texts = room.embeddings.rows("train", list(range(48)), joint["caption"].tolist())
    assert pairs["images"].dtype == torch.uint8
    for number, members in enumerate(found):
        torch.testing.assert_close(pairs["images"][number], images[members].mean(dim=0).round().to(torch.uint8))
        torch.testing.assert_close(pairs["texts"][number], texts[members].mean(dim=0))
    sizes = [len(members) for members in found]
    assert reader.manifest.facts["means_of"] == sizes
    assert max(sizes) > 5, "more than a chunk"
    assert reader.manifest.facts["keys"] == room.dataset.pick("train", [int(members[0]) for members in found]).keys
