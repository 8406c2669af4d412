"""The committed schemas equal those of the models, and real manifests satisfy them."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import create_model

from tests.test_readme import distilled_set
from vldd_dist.artifacts.manifests import from_json
from vldd_dist.artifacts.runs.run_status import RunStatus, write_status
from vldd_dist.artifacts.runs.run_units import RunUnits, write_run_units
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.distilled_set.distilled import DistilledSet
from vldd_dist.distilled_set.publishing.write import save
from vldd_dist.distilled_set.reading import verify
from vldd_dist.errors import StoreError
from vldd_dist.pipeline.schemas import models, render, schemas
from vldd_dist.pipeline.stage import stage_of
from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.store.store import Store

FOLDER = Path("storage_schemas")


def test_the_committed_schemas_equal_those_of_the_models() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(schemas())
    for name, schema in schemas().items():
        assert (FOLDER / name).read_text() == render(schema), "run: python -m vldd_dist.pipeline.schemas storage_schemas"


RECALLS = dict.fromkeys(RECALL_METRICS, 50.0)
SHARD = {"name": "train-000000", "images": 2, "captions": 10, "bytes": 10240}
SPLIT = {"shards": 1, "images": 2, "captions": 10, "bytes": 10240, "bad_images": 0}
EXAMPLES: dict[str, dict[str, Any]] = {
    "shard_group": {
        "splits": {"train": {"shards": [SHARD]}},
        "samples": 2,
        "bad": {"count": 0, "worst": "", "in_worst": 0},
    },
    "dataset": {
        "splits": {"train": SPLIT},
        "duplicates": {"train, val": 0},
        "image_size": 32,
        "source": "scenes",
        "licence": "CC0-1.0",
    },
    "image_weights": {"tensors": 3},
    "embedding_group": {"captions": 10, "distinct": 9, "dim": 4, "encoder": {"model": "minilm"}},
    "feature_group": {"images": 2, "dim": 8},
    "image_features": {"images": 2, "dim": 8},
    "caption_embeddings": {"captions": 10, "dim": 4, "encoder": {"model": "minilm"}},
    "expert": {"loss": [1.0], "validation": [RECALLS, RECALLS], "epochs": [0, 1]},
    "features": {"images": 2, "dim": 4},
    "coreset": {"keys": ["a"], "captions": ["b"]},
    "distillation": {
        "best_step": 5,
        "best_validation": 40.0,
        "validation": [(0, 10.0), (5, 40.0)],
        "start": {"initialise": "real"},
        "objective": {"difference_check": {"relative_epsilon": 1e-4, "error": 1e-3, "against": "exact", "later": []}},
    },
    "evaluation": {"test": RECALLS, "learning_rate": 0.1, "validation": [[0.1, RECALLS]]},
    "application": {
        "application": "architecture_search",
        "results": [{"method": "distilled", "setting": "10 pairs", "figures": {"tau": [0.5, 0.75]}}],
    },
    "publication": {"folder": "distilled/x", "size_bytes": 1200, "digest": "0" * 64},
}


RUN = "0a1b2c3d"
STATUS = {
    "experiment": "scenes",
    "run": RUN,
    "state": "running",
    "stages": {"expert": {"total": 3, "done": 1, "failed": 0}},
    "running": [{"label": "expert 1", "seconds": 2.5, "event": {"done": 5, "total": 10, "loss": 1.5}}],
    "time_left": "about 5 s left",
    "notices": ["expert 0: retried: its process or machine ended"],
}


def test_written_manifests_satisfy_the_schemas(store: Store) -> None:
    written = {}
    for kind, facts in EXAMPLES.items():
        writer = UnitWriter(store, kind, "u", {"a": 1}, {})
        writer.checkpoints.save(1, {"state": b"x"}, {})
        (checkpoint,) = [key for key in store.keys("units") if "/checkpoints/" in key]
        written["checkpoint"] = store.read(checkpoint)
        writer.put("x", b"1")
        writer.commit(stage_of(kind).result.model_validate(facts))
        written[kind] = store.read(f"units/{kind}/u/manifest.json")
        stored = json.loads(written[kind])["facts"]
        # As text, in which 1 and 1.0 differ.
        assert json.dumps(stored, sort_keys=True) == json.dumps(facts, sort_keys=True)
    save(distilled_set(), store.url_of("distilled/s"))
    written["distilled_set"] = store.read("distilled/s/manifest.json")
    write_status(store, RunStatus.model_validate(STATUS))
    written["run_status"] = store.read(f"status/scenes/{RUN}.json")
    write_run_units(store, RunUnits(experiment="scenes", run=RUN, units=[f"expert/{'0' * 16}"]))
    written["run_units"] = store.read(f"runs/scenes/{RUN}.json")
    written["nearest_captions"] = store.read("distilled/s/captions.jsonl").splitlines()[0]
    assert set(written) == set(models())
    for name, data in written.items():
        schema = json.loads((FOLDER / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(json.loads(data), schema)
        if name != "nearest_captions":
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({"schema_version": json.loads(data)["schema_version"]}, schema)


def test_the_examples_satisfy_the_schemas_and_can_be_read() -> None:
    """The examples come from real runs. A seal that does not match or a changed field fails."""
    assert {path.stem for path in (FOLDER / "examples").iterdir()} == set(models())
    for name, model in models().items():
        data = (FOLDER / f"examples/{name}.json").read_bytes()
        jsonschema.validate(json.loads(data), json.loads((FOLDER / f"{name}.schema.json").read_text()))
        if name != "nearest_captions":
            from_json(model, data, name)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_facts_that_the_schema_of_a_kind_lacks_are_refused(store: Store, kind: str) -> None:
    further = create_model("Further", __base__=stage_of(kind).result, extra=(int, ...))
    with pytest.raises(StoreError, match=rf"units/{kind}/u: facts: extra: Extra inputs"):
        UnitWriter(store, kind, "u", {}, {}).commit(further.model_validate(EXAMPLES[kind] | {"extra": 1}))
    assert store.keys("units") == []


def test_the_previous_version_is_read_and_others_are_refused(store: Store) -> None:
    """A manifest of version 1 has neither a seal nor blocks."""
    info = {"key": "units/coreset/u/abcd/x", "size": 1, "sha256": sha256(b"1").hexdigest()}
    manifest = {
        "schema_version": 1,
        "kind": "coreset",
        "unit": "u",
        "spec": {"method": "random"},
        "inputs": {"dataset": "dataset/d"},
        "objects": {"x": info},
        "facts": {"keys": ["a"], "captions": ["b"]},
        "created_at": "2026-01-01T00:00:00+00:00",
        "versions": {"torch": "2.13.0"},
    }
    store.write("units/coreset/u/abcd/x", b"1")
    store.write("units/coreset/u/manifest.json", json.dumps(manifest).encode())
    reader = UnitReader(store, "coreset", "u")
    assert (reader.read("x"), reader.manifest.facts["keys"]) == (b"1", ["a"])
    for version in (0, 3, "2"):
        store.write("units/coreset/u/manifest.json", json.dumps(manifest | {"schema_version": version}).encode())
        with pytest.raises(StoreError, match=rf"manifest.json: schema version {version!r}; this vldd_dist reads 1 and 2"):
            UnitReader(store, "coreset", "u")


@pytest.mark.parametrize(
    ("version", "mend"),
    [
        (3, "make it again, or read it with the version of vldd_dist that wrote it"),
        (1, "make it again"),
        (5, "use a newer vldd_dist"),
    ],
)
def test_a_set_of_another_version_is_refused_by_its_version(version: int, mend: str, store: Store) -> None:
    """The version is checked before the fields, because other versions have other fields, and version 1 has no seal."""
    url = store.url_of("distilled/s")
    save(distilled_set(), url)
    tree = {"schema_version": version, "kind": "distilled_set", "inner_lr_image": 0.1}
    store.write("distilled/s/manifest.json", json.dumps(tree).encode())
    sentence = rf"distilled/s/manifest.json: schema version {version}; this vldd_dist reads 4: {mend}"
    for read in (DistilledSet.load, verify):
        with pytest.raises(StoreError, match=sentence):
            read(url)
