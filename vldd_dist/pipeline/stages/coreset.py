"""A coreset: M real pairs, or means of real pairs, chosen by one of the methods in `plugins.CORESETS`."""

from itertools import zip_longest

import torch
from pydantic import Field
from torch import Tensor

from vldd_dist.artifacts.facts import Count, Facts
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.config.base import choose
from vldd_dist.coresets.base import Coreset, groups
from vldd_dist.coresets.candidates import Candidates
from vldd_dist.data.prepared.batches.mean_pairs import mean_pairs
from vldd_dist.data.prepared.batches.real_pairs import drawn_texts, real_pairs
from vldd_dist.data.prepared.shard_index import SplitInfo
from vldd_dist.pipeline.context import StageContext, read_tensors
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.work_unit import UnitOrder, WorkUnit
from vldd_dist.plugins import CORESETS
from vldd_dist.seeding import numpy_generator


class CoresetFacts(Facts):
    keys: list[str] = Field(description="keys of the real pairs; for a mean of several pairs, of the pair that represents it")
    captions: list[str]
    means_of: list[Count] = Field(default=[], description="number of real pairs averaged into each pair; empty for real pairs")

    def chosen(self) -> frozenset[tuple[str, int | None]]:
        """The chosen images, each with the number of pairs of its mean, to find selections of the same images."""
        return frozenset(zip_longest(self.keys, self.means_of))


def unit(graph: UnitGraph, method: Coreset, pairs: int, seed: int, expert: int) -> WorkUnit:
    """One selection. If the method needs features or forgetting counts, they are those of the expert with this index."""
    inputs = {"dataset": graph.unit("dataset"), "embeddings": graph.unit("caption_embeddings")}
    if "expert_features" in method.needed():
        inputs["features"] = graph.unit("features", expert)
    if "forgetting" in method.needed():
        inputs["expert"] = graph.unit("expert", expert)
    spec = {"method": method.identity(), "pairs": pairs, "seed": seed}
    # Selections compute on CPUs. A GPU in `coresets.resources` is for the features by which they select.
    resources = STAGE.resources(graph.experiment).model_copy(update={"gpus": 0.0})
    execution, label = {"method": method.model_dump(mode="json")}, f"{method.label} {pairs} pairs seed {seed}"
    return STAGE.new(graph.experiment, spec, inputs, execution, label, resources=resources)


def method_of(unit: WorkUnit | UnitOrder) -> Coreset:
    """The unit's method, with all its settings."""
    method: Coreset = choose(CORESETS, unit.execution["method"])
    return method


def select(unit: WorkUnit | UnitOrder, candidates: Candidates) -> list[Tensor]:
    """The numbers of the training images of each pair of the unit: one image, or several that are averaged."""
    spec, method = unit.spec, method_of(unit)
    generator = numpy_generator(spec["seed"], "coreset", method.name, spec["pairs"])
    return groups(method, candidates, spec["pairs"], generator)


def load_candidates(context: StageContext) -> Candidates:
    """The training pairs, with what the unit's method needs of them."""
    split, features, counts = context.dataset.splits["train"], {}, {}
    if "features" in context.order.inputs:
        features = read_tensors(context.reader("features"), "features.safetensors")
    if "expert" in context.order.inputs:
        counts = read_tensors(context.reader("expert"), "forgetting.safetensors")
    captions, embedding = features.get("caption"), None
    if "embeddings" in method_of(context.order).needed():
        captions, embedding = _embeddings(context, split, captions)
    return Candidates(
        split.images, features.get("image"), features.get("text"), counts.get("events"), counts.get("ever"), captions, embedding
    )


def _embeddings(context: StageContext, split: SplitInfo, captions: Tensor | None) -> tuple[Tensor, Tensor]:
    """The numbers (N,) and embeddings (N, D) of one caption of each image: of those given, else of drawn ones."""
    if captions is not None:
        return captions, context.embeddings.rows("train", list(range(split.images)), captions.tolist())
    drawn = [
        drawn_texts(texts, shard, context.spec["seed"])
        for shard, texts in zip(split.shards, context.embeddings.of_shards(split.shards), strict=True)
    ]
    return torch.tensor([number for numbers, _ in drawn for number in numbers]), torch.cat([vectors for _, vectors in drawn])


def run(context: StageContext) -> CoresetFacts:
    """Select pairs, and store the images with the embeddings of the captions that were used to select them."""
    spec, candidates = context.spec, load_candidates(context)
    selected = select(context.order, candidates)
    indices = [int(group[0]) for group in selected]
    chosen = real_pairs(context.dataset, context.embeddings, indices, candidates.caption_numbers(indices), spec["seed"])
    images, texts, facts = chosen.images, chosen.texts, CoresetFacts(keys=chosen.keys, captions=chosen.captions)
    if method_of(context.order).averages:
        assert candidates.caption is not None
        images, texts = mean_pairs(context.dataset, context.embeddings, selected, candidates.caption)
        facts = CoresetFacts(keys=facts.keys, captions=facts.captions, means_of=[len(group) for group in selected])
    context.writer.put("pairs.safetensors", tensors.encode({"images": images, "texts": texts}))
    return facts


STAGE = StageSpec(
    kind="coreset",
    version=4,
    title="coresets",
    section="coresets",
    result=CoresetFacts,
    unit=unit,
    run=run,
    priority=6,
    lower_for_memory="distill.pairs",
)
