"""The graph of a study: a unit that several variants need occurs once."""

import pytest

from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.testing.experiments.tiny_experiment import experiment

VARIANTS = {
    "small": experiment("distill.pairs=[4]"),
    "both": experiment("distill.pairs=[4, 6]", "name=both"),
    "vit": experiment("model.image.model=test_vit", "model.image.model_args={img_size: 32}", "name=vit"),
}


def test_variants_share_units_with_equal_ids() -> None:
    graph = StudyGraph(VARIANTS)
    alone = {name: {unit.id for unit in Graph(one).units()} for name, one in VARIANTS.items()}
    together = [unit.id for unit in graph.units()]
    assert len(together) == len(set(together))
    assert set(together) == alone["small"] | alone["both"] | alone["vit"]
    assert graph.count_without_sharing() == sum(map(len, alone.values()))
    shared = {unit.id for unit in graph.shared()}
    assert shared == {unit for unit in together if sum(unit in one for one in alone.values()) > 1}
    kinds = {unit.kind for unit in graph.shared()}
    assert {"dataset", "caption_embeddings", "expert", "distillation", "evaluation"} <= kinds
    # A published set contains the experiment's name.
    assert "publication" not in kinds


@pytest.mark.parametrize("setting", ["distill.workers", "distill.objective.max_loss", "model.image.lora.rank"])
def test_variants_that_differ_only_in_settings_without_an_effect_are_refused(setting: str) -> None:
    variants = {str(value): experiment(f"{setting}={value}", f"name=w{value}") for value in (1, 2)}
    with pytest.raises(ConfigError, match="the variants 1 and 2 differ only in settings without an effect on results"):
        StudyGraph(variants)


def test_inputs_come_first_and_owners_have_each_unit_once() -> None:
    graph = StudyGraph(VARIANTS)
    seen: set[str] = set()
    for unit in graph.units():
        assert {needed.id for needed in unit.inputs.values()} <= seen
        seen.add(unit.id)
    owned = [unit.id for _, units in graph.owners() for unit in units]
    assert sorted(owned) == sorted(seen)


def test_labels_say_whose_a_unit_is() -> None:
    labels = {unit.label for unit in StudyGraph(VARIANTS).units()}
    assert {"dataset", "expert 0 [small and 1 more]", "expert 0 [vit]", "distillation 6 pairs seed 0 [both]"} <= labels


def test_a_milestone_ends_every_variant() -> None:
    units = StudyGraph(VARIANTS).units("experts")
    assert {unit.kind for unit in units} == {"shard_group", "dataset", "embedding_group", "caption_embeddings", "expert"}
    assert sum(unit.kind == "expert" for unit in units) == 4
