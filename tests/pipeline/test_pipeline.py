"""The whole graph in one process, unit after unit: results, damage, the report."""

import json
import posixpath
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from vldd_dist import load_distilled
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader, is_done
from vldd_dist.distilled_set.publishing import presentation
from vldd_dist.errors import StoreError
from vldd_dist.models.dual_encoder import DualEncoder
from vldd_dist.models.image.backbone import create_backbone, public_weights
from vldd_dist.monitoring.reports.report import Reporter
from vldd_dist.pipeline.context import StageContext
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages import distillation, evaluation
from vldd_dist.pipeline.stages.data.image_weights import ImageWeightsFacts
from vldd_dist.pipeline.stages.shared.inputs import load_retrieval_split
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.retrieval.encode import RetrievalSplit
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import experiment, run, units_of, workspace


def test_all_units_are_committed_and_found_by_a_second_plan(finished: Store) -> None:
    units = Graph(experiment()).units()
    assert all(is_done(finished, unit.kind, unit.id) for unit in units)
    assert {unit.kind for unit in units} == {
        "shard_group",
        "dataset",
        "embedding_group",
        "caption_embeddings",
        "expert",
        "features",
        "coreset",
        "distillation",
        "evaluation",
        "publication",
    }


def test_settings_that_do_not_change_the_output_do_not_change_the_unit_id() -> None:
    ids = {unit.id for unit in Graph(experiment()).units()}
    same = experiment("experts.readers=1", "experts.cache_mib=0", "distill.checkpoint_every=5", "device=cpu")
    assert {unit.id for unit in Graph(same).units()} == ids
    more_experts = {unit.id for unit in units_of(experiment("experts.count=3"), "expert")}
    assert more_experts > {unit.id for unit in units_of(experiment(), "expert")}
    other = {unit.id for unit in units_of(experiment("experts.lr_image=0.5"), "expert")}
    assert other.isdisjoint(ids)


def test_the_published_set_stands_on_its_own(finished: Store, tmp_path: Path) -> None:
    (unit,) = units_of(experiment(), "publication")
    facts = UnitReader(finished, unit.kind, unit.id).manifest.facts
    moved = tmp_path / "moved"
    shutil.copytree(Path(finished.root) / facts["folder"], moved)
    distilled = load_distilled(str(moved))
    assert distilled.digest == facts["digest"]
    assert distilled.images.shape == (4, 3, 32, 32)
    assert distilled.texts.shape == (4, 384)
    assert set(distilled.learned) == {"inner_lr_image", "inner_lr_text"}
    assert min(distilled.learned.values()) > 0
    rates = distilled.shared["log_rates"].exp().tolist()
    assert list(distilled.learned.values()) == rates
    assert len(distilled.captions) == 4
    assert distilled.start_images is not None
    assert distilled.pixels().shape == distilled.start_images.shape
    batch = next(iter(torch.utils.data.DataLoader(distilled.as_dataset(), batch_size=4)))
    assert torch.equal(batch["images"], distilled.images)
    card = (moved / "README.md").read_text()
    assert card.startswith(
        "---\npretty_name: 4 synthetic image-text pairs distilled from scenes\nlicense: cc0-1.0\nlanguage:\n- en\n"
    )
    assert "| distilled |" in card
    assert "| random |" in card
    assert distilled.digest in card
    assert (moved / "preview.png").read_bytes().startswith(b"\x89PNG")
    data = bytearray((moved / "pairs.safetensors").read_bytes())
    data[-1] ^= 1
    (moved / "pairs.safetensors").write_bytes(data)
    with pytest.raises(StoreError, match=r"pairs\.safetensors: its sha256 differs"):
        load_distilled(str(moved))


def test_the_test_split_is_read_only_after_all_choices(
    finished: Store, without: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test split is read once, after all choices: by the evaluation."""
    asked: list[str] = []

    def recorded(context: StageContext, model: DualEncoder, split: str) -> RetrievalSplit:
        asked.append(split)
        return load_retrieval_split(context, model, split)

    for stage in (distillation, evaluation):
        monkeypatch.setattr(stage, "load_retrieval_split", recorded)
    (unit,) = units_of(experiment(), "distillation")
    run(without("distillation"), [unit])
    assert asked == ["val"]
    for role, splits in (("pairs", ["val", "test"]), ("expert", ["test"])):
        asked.clear()
        evaluation.run(workspace(finished, next(unit for unit in units_of(experiment(), "evaluation") if role in unit.inputs)))
        assert asked == splits


def test_a_damaged_object_is_found_by_the_unit_that_reads_it(without: Callable[[str], Store]) -> None:
    store, tree = without("distillation"), experiment()
    reader = UnitReader(store, "expert", units_of(tree, "expert")[0].id)
    key = reader.info("epoch-0001/image.safetensors").key
    store.write(key, store.read(key)[:-100])
    with pytest.raises(StoreError, match=rf"{key}.*damaged.*to have the unit made again"):
        run(store, units_of(tree, "distillation"))


def test_lora_and_head_only_experiments_run_through(without: Callable[[str], Store]) -> None:
    for overrides in (
        ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "model.image.train=lora"],
        ["model.image.train=head", "model.image.head.kind=linear", "model.joint_dim=16"],
    ):
        store, tree = without("expert"), experiment(*overrides, "experts.augment={flip: false}")
        run(store, Graph(tree).units())
        (unit,) = units_of(tree, "publication")
        folder = UnitReader(store, unit.kind, unit.id).manifest.facts["folder"]
        assert load_distilled(store.url_of(folder)).recipe.image_train == tree.model.image.train
        shutil.rmtree(store.root)


@pytest.mark.parametrize("copied", [{"name": "test_nfnet.older"}, {}])
def test_a_card_names_the_public_weights_that_were_copied(copied: dict[str, str], finished: Store, tmp_path: Path) -> None:
    """The timm of the publication may load other ones for the same name. Older units do not say which were copied."""
    store = Store(str(shutil.copytree(finished.root, tmp_path / "store")))
    (unit,) = units_of(experiment(), "publication")
    image = unit.spec["model"]["image"] | {"weights": "timm"}
    weights = WorkUnit("image_weights", {})
    writer = UnitWriter(store, weights.kind, weights.id, {}, {})
    state = create_backbone(image["model"], image["model_args"], pretrained=False, seed=0).state_dict()
    writer.put("weights.safetensors", tensors.encode(state))
    writer.commit(ImageWeightsFacts(tensors=len(state), public=copied))
    spec = unit.spec | {"model": unit.spec["model"] | {"image": image}}
    unit = replace(unit, spec=spec, inputs=unit.inputs | {"image_weights": weights})
    run(store, [unit])
    folder = UnitReader(store, unit.kind, unit.id).manifest.facts["folder"]
    assert load_distilled(store.url_of(folder)).recipe.public_weights == (copied or public_weights(image["model"]))


def test_the_report_says_what_the_manifests_say(finished: Store) -> None:
    tree = experiment()
    graph = Graph(tree)
    failed = graph.wanted("publication")[0]
    Reporter(graph, finished).write()
    rows = json.loads(finished.read("report/scenes/summary.json"))["rows"]
    assert {(row["method"], row["pairs"]) for row in rows} == {
        ("full", 48),
        ("random", 4),
        ("k_center", 4),
        ("forgetting", 4),
        ("distilled", 4),
    }
    full = [unit for unit in graph.wanted("evaluation") if "expert" in unit.inputs]
    recalls = [UnitReader(finished, unit.kind, unit.id).manifest.facts["test"]["tr5"] for unit in full]
    (full,) = [row for row in rows if row["method"] == "full"]
    assert full["metrics"]["tr5"]["mean"] == pytest.approx(sum(recalls) / 2)
    assert full["metrics"]["tr5"]["std_runs"] == pytest.approx(abs(recalls[0] - recalls[1]) / 2)
    page = finished.read("report/scenes/index.html").decode()
    assert UnitReader(finished, failed.kind, failed.id).manifest.facts["digest"] in page


def test_each_link_of_the_report_is_a_file_in_the_store(finished: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = Reporter(Graph(experiment()), finished)
    reporter.write()

    def links(more: str) -> set[str]:
        found = re.findall(rf'<a href="([^"#]+)"{more}', finished.read(reporter.page).decode())
        return {posixpath.normpath(posixpath.join("report/scenes", unquote(link))) for link in found}

    assert [link for link in links("") if not finished.exists(link)] == []
    folder = Reporter(Graph(experiment()), finished).collect().distilled_sets[0].folder
    files = {"summary.json", "tables.json", "table.md", "recall.svg"}
    files_of_set = {"README.md", "preview.png", "manifest.json", "pairs/000000.tar"}
    assert links(" download") == {f"report/scenes/{file}" for file in files} | {f"{folder}/{file}" for file in files_of_set}
    # Of a set with several tars, all are there.
    monkeypatch.setattr(presentation, "SHARD_PAIRS", 3)
    reporter.write()
    assert {f"{folder}/pairs/000000.tar", f"{folder}/pairs/000001.tar"} <= links(" download")
