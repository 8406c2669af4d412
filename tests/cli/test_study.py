"""Commands on studies."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cli.command import table_rows, vldd
from tests.cli.user_data import description
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.distillation.objectives.costs import ObjectiveCosts
from vldd_dist.distillation.objectives.covariance_matching import CovarianceCosts
from vldd_dist.testing.experiments.tiny import TINY


@pytest.fixture
def study(tmp_path: Path) -> str:
    path = tmp_path / "towers.yaml"
    changes = {"model.image.model": "test_vit", "model.image.model_args": {"img_size": 32}}
    path.write_text(yaml.safe_dump({"name": "towers", "base": "scenes", "variants": {"nfnet": {}, "vit": changes}}))
    return str(path)


SETS = [part for override in TINY for part in ("--set", override)]


def test_a_plan_needs_no_store_and_says_what_variants_share(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = vldd("run", study, "--plan", *SETS, capsys=capsys)
    assert (code, err) == (0, "")
    found = re.search(r"2 variants share (\d+) of the (\d+) units, .* in separate stores, (\d+) units would run", out)
    assert found is not None
    shared, units, asked = map(int, found.groups())
    # The two variants request each shared unit once, so twice in all.
    assert asked == units + shared
    assert shared > 0
    for word in ("experts", "towers-nfnet", "GPU-hours", "writes, GiB"):
        assert word in out


def test_a_plan_as_a_document_and_as_a_narrow_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = tmp_path / "study.yaml", "with-a-name-that-is-as-long-as-a-label-of-a-variant-may-be"
    changes = {name: {"distill.objective": "covariance_matching"}, "plain": {"experts.resources.gpu_memory_gib": 0.01}}
    path.write_text(yaml.safe_dump({"name": "towers", "base": "scenes", "variants": changes}))
    monkeypatch.setenv("COLUMNS", "80")
    # Like an objective of a plug-in that does not estimate the cost of a step.
    monkeypatch.setattr(CovarianceCosts, "step_flops", ObjectiveCosts.step_flops)
    _, out, _ = vldd("run", str(path), "--plan", *SETS, capsys=capsys)
    code, document, err = vldd("run", str(path), "--plan", "--json", *SETS, capsys=capsys)
    assert code == 0
    (warning,) = err.splitlines()
    assert warning.endswith(f": has no effect on the variants that set it: {name}")
    found = json.loads(document)
    assert "…" not in out
    assert max(len(line) for line in out.splitlines() if line.startswith(tuple("┏┃┡│├└"))) <= 80
    for stage in found["stages"]:
        figures = (stage[key] for key in ("units", "done", "to_run", "workers", "cpus", "gpus"))
        assert re.search(rf"│ {stage['title']} +│ +" + " │ +".join(f"{figure:g}" for figure in figures), out), stage
    (work,) = [one for one in found["work"] if one["kind"] == "distillation"]
    assert (work["units"], work["unknown_units"]) == (2, 1)
    assert re.search(r"distillations +│ +2 │ +> ", out)
    (note,) = [note for note in found["notes"] if note.startswith("?: the work of distillations")]
    assert "covariance_matching does not count its operations" in note
    assert note in out
    (expert,) = [need for need in found["needs"] if need["kind"] == "expert"]
    assert (expert["experiment"], expert["fits"]) == ("towers-plain", False)
    assert f"experts of towers-plain do not fit: {expert['suggestion']}" in out
    assert f"{sum(expert['peak_of'].values()) / 2**20:.1f} MiB" in out
    assert f"{found['sharing']['shared']} of the {sum(stage['units'] for stage in found['stages'])} units" in out


def test_a_variant_is_printed_as_a_description(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vldd("config", study, "--variant", "vit", capsys=capsys)
    assert code == 0
    (tmp_path / "vit.yaml").write_text(out)
    overrides = ["model.image.model=test_vit", "model.image.model_args={img_size: 32}", "name=towers-vit"]
    assert load_experiment(tmp_path / "vit.yaml") == load_experiment("scenes", overrides)
    code, _, err = vldd("config", study, "--variant", "vitt", capsys=capsys)
    assert code == 2
    assert f"the variants of {study} are nfnet, vit" in err
    code, _, err = vldd("config", "scenes", "--variant", "vit", capsys=capsys)
    assert (code, err.count("\n"), "--variant vit: scenes is not a study" in err) == (2, 1, True)


def test_a_study_without_a_store_is_refused(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = vldd("run", study, capsys=capsys)
    assert code == 2
    assert "--store: missing" in err


def test_a_published_table_without_a_figure_is_refused_before_anything_runs(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load(Path(study).read_text())
    tree["tables"] = {"one": {"title": "T", "published": ["lors-flickr30k"]}}
    Path(study).write_text(yaml.safe_dump(tree))
    code, out, err = vldd("run", study, "--plan", *SETS, capsys=capsys)
    assert (code, out) == (2, "")
    assert "tables.one.published: lors-flickr30k has no figure for any row of this table" in err


def test_a_plan_works_without_missing_data_and_refuses_damaged_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": "karpathy", "annotations": str(tmp_path / "data.json"), "images": str(tmp_path)}
    sets = [*SETS, "--set", f"data.source={json.dumps(data)}"]
    code, out, _ = vldd("run", "scenes", "--plan", *sets, capsys=capsys)
    assert (code, "The data cannot be read here, so the plan uses the numbers of images in the description" in out) == (0, True)
    (tmp_path / "data.json").write_text("{")
    code, _, err = vldd("run", "scenes", "--plan", *sets, capsys=capsys)
    assert (code, "data.json: not JSON" in err) == (4, True)


def test_the_data_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: both\nbase: scenes\nvary: {distill.pairs: [[3], [4]]}\n")
    code, out, _ = vldd("data", str(path), "--limit", "5", capsys=capsys)
    assert (code, table_rows(out)["images"]) == (0, ["2,000", "200", "200"])
    assert out.startswith("both: scenes")
    path.write_text("name: both\nbase: scenes\nvary: {data.train_images: [1000, 2000]}\n")
    code, _, err = vldd("data", str(path), capsys=capsys)
    assert (code, "the variants of this study do not have the same data: look at those of one" in err) == (2, True)
    path.write_text("name: both\nbase: scenes\nvary: {data.licence: [mine, theirs]}\n")
    assert vldd("data", str(path), "--limit", "5", capsys=capsys)[0] == 0


@pytest.mark.parametrize("vary", ["{seed: [1, 2]}", "{data.image_size: [32, 64]}"])
def test_variants_differ_by_what_scenes_are_drawn_from(vary: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other images are the same with another seed, and shown in their own size."""
    (drawn, read) = (tmp_path / f"{name}.yaml" for name in ("drawn", "read"))
    drawn.write_text(f"name: both\nbase: scenes\nvary: {vary}\n")
    read.write_text(f"name: both\nbase: {description(tmp_path)}\nvary: {vary}\n")
    assert [vldd("data", str(path), "--limit", "5", capsys=capsys)[0] for path in (drawn, read)] == [2, 0]
