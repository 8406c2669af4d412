"""The committed schemas equal those of the models, and real manifests satisfy them."""

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import create_model

from tests.distilled_sets import distilled_set
from tests.run_status import RUN, STATUS
from tests.unit_facts import EXAMPLES
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
from vldd_dist.store.store import Store

FOLDER = Path("storage_schemas")


def test_the_committed_schemas_equal_those_of_the_models() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(schemas())
    for name, schema in schemas().items():
        assert (FOLDER / name).read_text() == render(schema), "run: python -m vldd_dist.pipeline.schemas storage_schemas"


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


@pytest.mark.parametrize("version", [0, 1, 3, "2"])
def test_a_manifest_of_another_version_is_refused(store: Store, version: int | str) -> None:
    """Also without a seal, which a manifest could otherwise leave out by naming a version that had none."""
    key = "units/coreset/u/manifest.json"
    writer = UnitWriter(store, "coreset", "u", {}, {})
    writer.put("x", b"1")
    writer.commit(stage_of("coreset").result.model_validate(EXAMPLES["coreset"]))
    tree = json.loads(store.read(key)) | {"schema_version": version}
    del tree["seal"]
    store.write(key, json.dumps(tree).encode())
    with pytest.raises(StoreError, match=rf"manifest.json: schema version {version!r}; this vldd_dist reads 2: "):
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
