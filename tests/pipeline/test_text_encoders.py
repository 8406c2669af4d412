"""The text encoder of a description in the units of its captions' embeddings."""

from dataclasses import replace
from pathlib import Path

import pytest

from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader, is_done
from vldd_dist.data.facts import CaptionEmbeddingsFacts, cut_captions
from vldd_dist.data.prepared.image_lines import read_lines
from vldd_dist.errors import DataError
from vldd_dist.models.text import tiny_clip
from vldd_dist.models.text.hub_files import WEIGHTS_ELSEWHERE
from vldd_dist.models.text.tokens import count_tokens
from vldd_dist.monitoring.reports.report import Reporter
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.data.embedding_group import EmbeddingGroupFacts
from vldd_dist.pipeline.stages.data.grouped import shards_of
from vldd_dist.pipeline.work_unit import in_dependency_order
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of

TINY_CLIP = ("model.text.model=tiny-clip", "model.text.pooling=projected")


@pytest.mark.parametrize("change", ["model.text.pooling=eos", "model.text.max_tokens=20", "model.text.scale=none"])
@pytest.mark.parametrize("kind", ["embedding_group", "caption_embeddings"])
def test_settings_of_the_embeddings_are_in_their_unit_id(kind: str, change: str) -> None:
    ids, others = ([unit.id for unit in units_of(experiment(*TINY_CLIP, *more), kind)] for more in ([], [change]))
    assert set(ids).isdisjoint(others)


@pytest.mark.parametrize(
    ("max_tokens", "mend"),
    [(15, "raise it (tiny-clip takes up to 77)"), (77, None), (30, None)],
)
def test_captions_that_are_cut_are_counted(
    max_tokens: int, mend: str | None, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log and in the report, over all groups."""
    tree = experiment(*TINY_CLIP, f"model.text.max_tokens={max_tokens}", "data.group_images=16")
    (index,) = units_of(tree, "caption_embeddings")
    run(store, in_dependency_order(list(index.inputs.values())))
    execute(index.order(), store, lambda event: None)
    groups = [UnitReader(store, unit.kind, unit.id) for unit in units_of(tree, "shard_group")]
    lines = [line for group in groups for shard in shards_of(group) for line in read_lines(group, shard)]
    captions = [caption for line in lines for caption in line.captions]
    cut = sum(count > max_tokens for count in count_tokens(tiny_clip.tokenizer(), captions))
    assert UnitReader(store, index.kind, index.id).facts_as(CaptionEmbeddingsFacts).cut == cut
    assert (cut > 0) == (mend is not None)
    sentence = f"{cut:,} of {len(captions):,} captions have more than model.text.max_tokens ({max_tokens}) tokens and are cut"
    assert (sentence in caplog.text) == (mend is not None)
    of_report = Reporter(Graph(tree), store).collect().description["text tower"]
    assert of_report.endswith(mend or "frozen")
    assert (sentence in of_report) == (mend is not None)


def test_where_the_encoder_takes_no_more_tokens_other_captions_are_asked_for() -> None:
    sentence = cut_captions("2 of 3", "clip", 77, 77)
    assert sentence.endswith("may have the same embedding: shorten them, or name an encoder that takes more")
    assert cut_captions("2 of 3", "t5", 77, None).endswith("may have the same embedding: raise it")


def test_an_expert_learns_from_the_built_in_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store(str(tmp_path_factory.mktemp("store")))
    tree = experiment(*TINY_CLIP, "experts.count=1", "experts.epochs=15")
    (expert,) = units_of(tree, "expert")
    run(store, Graph(tree).units(until="experts"))
    facts = UnitReader(store, expert.kind, expert.id).manifest.facts
    assert UnitReader(store, "caption_embeddings", units_of(tree, "caption_embeddings")[0].id).manifest.facts["dim"] == 128
    assert facts["loss"][-1] < facts["loss"][0] - 0.5


def test_captions_are_not_embedded_by_another_encoder_than_the_planned_one(tmp_path: Path) -> None:
    """The local encoder of a worker may be another than that of the machine that planned the run."""
    store = Store(str(tmp_path))
    tree = experiment(*TINY_CLIP)
    run(store, units_of(tree, "shard_group"))
    unit = units_of(tree, "embedding_group")[0]
    planned = replace(unit, spec={"text": unit.spec["text"] | {"weights": "others"}})
    with pytest.raises(DataError, match=r"model\.text\.model: tiny-clip has changed since the run was planned"):
        run(store, [planned])
    assert not is_done(store, planned.kind, planned.id)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (
            "model.safetensors",
            r"different files model\.safetensors of me/bert \(commits 0 and \d\): set model\.text\.revision to one",
        ),
        (WEIGHTS_ELSEWHERE, r"different weights of me/bert, which has no safetensors of its own: name a folder"),
    ],
)
def test_captions_that_were_embedded_with_different_files_of_a_hub_are_refused(
    weights: str, sentence: str, store: Store
) -> None:
    """A branch has moved while images were added. A commit that changes none of the files does no harm."""
    (index,) = units_of(experiment("model.text.model=me/bert", "data.group_images=16"), "caption_embeddings")
    roles = [role for role in index.inputs if role != "dataset"]
    files = [{"config.json": "1", weights: "2"}, {weights: "2", "vocab.txt": "3"}]
    for number, role in enumerate(roles):
        if role == roles[-1]:
            others = {other: unit for other, unit in index.inputs.items() if other != role}
            execute(replace(index, inputs=others).order(), store, lambda event: None)
            files = [{weights: "4"}]
        facts = EmbeddingGroupFacts(
            captions=5,
            distinct=5,
            dim=8,
            encoder={"model": "me/bert", "commit": str(number)},
            files=files[number % len(files)],
        )
        unit = index.inputs[role]
        UnitWriter(store, unit.kind, unit.id, unit.spec, {"shards": f"shard_group/{number}"}).commit(facts)
    with pytest.raises(DataError, match=sentence):
        execute(index.order(), store, lambda event: None)
