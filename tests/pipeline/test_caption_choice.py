"""The captions that the stages use are those that the selection used, and only those of the training split."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from vldd_dist import load_distilled
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.base import choose
from vldd_dist.coresets.base import Coreset
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.data.prepared.batches.real_pairs import drawn_caption
from vldd_dist.data.prepared.pieces import Pieces
from vldd_dist.data.prepared.shard_index import Shard
from vldd_dist.distillation.initialisations import starting_pairs
from vldd_dist.pipeline.context import read_rows, read_tensors
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.coreset import load_candidates
from vldd_dist.pipeline.stages.distillation import distillation_context
from vldd_dist.pipeline.stages.shared.inputs import load_expert
from vldd_dist.plugins import CORESETS
from vldd_dist.retrieval.encode import encode_texts
from vldd_dist.seeding import numpy_generator
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of, workspace


def test_pairs_keep_the_caption_by_which_they_were_selected(without: Callable[[str], Store]) -> None:
    """Other seeds of the selection and of the run than of the features do not change the captions."""
    store = without("distillation")
    tree = experiment(
        "coresets.methods=[herding, k_center, k_means]",
        "evaluation.seeds=[7]",
        "distill.initialise=k_means",
        "distill.seeds=[5]",
    )
    run(store, [unit for unit in Graph(tree).units() if unit.kind in ("features", "coreset", "distillation")])
    (features,) = units_of(tree, "features")
    room, joint = workspace(store, features), read_tensors(UnitReader(store, "features", features.id), "features.safetensors")
    keys, numbers = [image.key for image in room.dataset.iterate("train")], joint["caption"].tolist()
    captions = [given[number] for given, number in zip(room.dataset.captions("train"), numbers, strict=True)]
    # They are the captions of these features, and not just the first ones.
    vectors = room.embeddings.rows("train", list(range(48)), numbers)
    texts = encode_texts(load_expert(room), vectors, 16)
    torch.testing.assert_close(joint["text"], texts)
    assert len(joint["caption"].unique()) > 1
    of_key = dict(zip(keys, captions, strict=True))
    candidates = Candidates(48, joint["image"], joint["text"])
    herded = [keys[index] for index in choose(CORESETS, "herding").select(candidates, 4, numpy_generator(0))]
    found = {
        unit.spec["method"]["name"]: UnitReader(store, "coreset", unit.id).manifest.facts for unit in units_of(tree, "coreset")
    }
    assert found["herding"]["keys"] == herded
    (run_unit,) = units_of(tree, "distillation")
    run_facts = UnitReader(store, "distillation", run_unit.id).manifest.facts
    for facts in (found["herding"], found["k_center"], found["k_means"], run_facts["start"]):
        assert len(set(facts["keys"])) == 4
        assert facts["captions"] == [of_key[key] for key in facts["keys"]]
    start = read_rows(UnitReader(store, "distillation", run_unit.id), "start")
    assert torch.equal(start["texts"], vectors[[keys.index(key) for key in run_facts["start"]["keys"]]])


class OfTexts(Coreset):
    """The pairs whose caption embedding has the largest first coordinate."""

    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    def select(self, candidates: Candidates, count: int, generator: np.random.Generator) -> Tensor:
        assert candidates.embedding is not None
        return candidates.embedding[:, 0].topk(count).indices


class OfBoth(OfTexts):
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings", "expert_features"})


@pytest.mark.parametrize("method", ["OfTexts", "OfBoth"])
def test_a_coreset_of_caption_embeddings_keeps_the_captions_that_they_are_of(
    method: str, without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn ones or, beside features, those of the features."""
    monkeypatch.setitem(CORESETS.entries, method, f"{__name__}:{method}")
    store = without("distillation")
    tree = experiment(f"coresets.methods=[{method}]", "evaluation.seeds=[7]")
    run(store, [unit for unit in Graph(tree).units() if unit.kind in ("features", "coreset")])
    (unit,) = units_of(tree, "coreset")
    room = workspace(store, unit)
    candidates = load_candidates(room)
    assert candidates.embedding is not None
    assert candidates.caption is not None
    assert torch.equal(candidates.embedding, room.embeddings.rows("train", list(range(48)), candidates.caption.tolist()))
    assert (candidates.image is not None) == (method == "OfBoth")
    if method == "OfBoth":
        assert torch.equal(candidates.caption, read_tensors(room.reader("features"), "features.safetensors")["caption"])
    else:
        counts = [len(given) for given in room.dataset.captions("train")]
        drawn = [drawn_caption(7, index, count) for index, count in enumerate(counts)]
        assert candidates.caption.tolist() == drawn
    chosen = candidates.embedding[:, 0].topk(4).indices
    pairs = read_rows(UnitReader(store, "coreset", unit.id), "pairs")
    assert torch.equal(pairs["texts"], candidates.embedding[chosen])
    given = list(room.dataset.captions("train"))
    facts = UnitReader(store, "coreset", unit.id).manifest.facts
    assert facts["captions"] == [given[index][candidates.caption[index]] for index in chosen.tolist()]


def test_captions_of_other_splits_are_not_training_captions(
    finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Embeddings of captions that only validation and test have are replaced by values that would be noticed."""
    copy = tmp_path / "copy"
    shutil.copytree(finished.root, copy)
    shutil.rmtree(copy / "units" / "publication")
    shutil.rmtree(copy / "distilled")
    store, of_shard = Store(str(copy)), Pieces.of
    noisy = experiment("distill.initialise=noise")
    (published,), (noise,) = units_of(experiment(), "publication"), units_of(noisy, "distillation")
    pairs = read_rows(workspace(finished, published).reader("distillation"), "pairs")["texts"]
    dataset = workspace(finished, published).dataset
    training = {caption for given in dataset.captions("train") for caption in given}
    strange = [shard for split in ("val", "test") for shard in dataset.splits[split].shards]

    def start() -> torch.Tensor:
        model = workspace(store, noise).build_model(0)
        pairs, _ = starting_pairs(distillation_context(workspace(store, noise), noisy.distill.distillation_settings(), model))
        return pairs.texts

    undisturbed = start()

    def with_strangers(self: Pieces, shard: Shard) -> dict[str, torch.Tensor]:
        found = of_shard(self, shard)
        if shard not in strange:
            return found
        rows = torch.arange(len(found["embeddings"])) % 4
        return found | {"embeddings": pairs[rows] * 100}

    monkeypatch.setattr(Pieces, "of", with_strangers)
    assert torch.equal(start(), undisturbed)
    run(store, [published])
    folder = UnitReader(store, published.kind, published.id).manifest.facts["folder"]
    shown = load_distilled(store.url_of(folder)).captions
    assert len(shown) == 4
    assert {caption for one in shown for caption in (one.before, one.after)} <= training
