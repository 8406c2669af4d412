"""The embeddings of all captions: an index of the `embedding_group` units."""

import logging

from vldd_dist.data.facts import CaptionEmbeddingsFacts
from vldd_dist.errors import DataError
from vldd_dist.models.text.hub_files import WEIGHTS_ELSEWHERE
from vldd_dist.models.text.identity import text_identity
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.stage import StageSpec, UnitGraph
from vldd_dist.pipeline.stages.data.embedding_group import EmbeddingGroupFacts
from vldd_dist.pipeline.stages.data.grouped import aligned_units, write_groups
from vldd_dist.pipeline.work_unit import WorkUnit

logger = logging.getLogger(__name__)


def unit(graph: UnitGraph) -> WorkUnit:
    """The index for all captions of the dataset."""
    spec = {"text": text_identity(graph.experiment.model.text)}
    inputs = {"dataset": graph.unit("dataset"), **aligned_units(graph, "embedding_group")}
    return STAGE.new(graph.experiment, spec, inputs, label="caption embeddings")


def run(context: StageContext) -> CaptionEmbeddingsFacts:
    """Write the index of the groups.

    Raises:
        DataError: the encoder is on a hub, and others of its files were used for some of the groups.
    """
    groups = [group.facts_as(EmbeddingGroupFacts) for group in write_groups(context)]
    _check_same_files(groups)
    facts = CaptionEmbeddingsFacts(
        captions=sum(group.captions for group in groups),
        dim=groups[0].dim,
        encoder=groups[0].encoder,
        cut=sum(group.cut for group in groups),
        positions=groups[0].positions,
    )
    if sentence := facts.of_cut_captions():
        logger.warning(sentence)
    return facts


def _check_same_files(groups: list[EmbeddingGroupFacts]) -> None:
    """Raises DataError if two groups were embedded with different files of the hub. Their ids have only the model's name and
    the revision, which is often a branch. Commits that change none of these files do no harm."""
    first_with: dict[str, EmbeddingGroupFacts] = {}
    for group in groups:
        for name, digest in group.files.items():
            first = first_with.setdefault(name, group)
            if first.files[name] == digest:
                continue
            model = group.encoder["model"]
            if name == WEIGHTS_ELSEWHERE:
                raise DataError(
                    f"model.text.model: the captions were embedded with different weights of {model}, which has no "
                    "safetensors of its own: name a folder as save_pretrained writes it"
                )
            commits = " and ".join(str(one.encoder["commit"]) for one in (first, group))
            raise DataError(
                f"model.text.model: the captions were embedded with different files {name} of {model} (commits {commits}): set "
                "model.text.revision to one of the commits"
            )


STAGE = StageSpec(
    kind="caption_embeddings",
    version=2,
    title="caption embeddings",
    result=CaptionEmbeddingsFacts,
    unit=unit,
    run=run,
    priority=2,
    wanted=lambda graph: [()],
    milestone="data",
    lower_for_memory="data.train_images",
)
