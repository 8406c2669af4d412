"""The committed schemas are the models', and real manifests satisfy them."""

import json
from pathlib import Path

import jsonschema
import pytest

from tests.test_readme import distilled_set
from vldd_dist.storage.schemas import MODELS, render, schemas
from vldd_dist.storage.store import Store
from vldd_dist.storage.units import UnitWriter

FOLDER = Path("storage_schemas")


def test_the_committed_schemas_are_the_models() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == set(schemas())
    for name, schema in schemas().items():
        assert (FOLDER / name).read_text() == render(schema), "run: python -m vldd_dist.storage.schemas storage_schemas"


def test_what_is_written_satisfies_them(store: Store) -> None:
    writer = UnitWriter(store, "expert", "u", {"a": 1}, {})
    writer.save_checkpoint(1, {"state": b"x"}, {})
    (checkpoint,) = [key for key in store.list("units") if "/checkpoints/" in key]
    written = {"checkpoint": store.read(checkpoint)}
    writer.put("x", b"1")
    writer.commit({"recall": 1.0})
    written["unit"] = store.read("units/expert/u/manifest.json")
    distilled_set().save(store.url_of("distilled/s"))
    written["distilled_set"] = store.read("distilled/s/manifest.json")
    written["nearest_captions"] = store.read("distilled/s/captions.jsonl").splitlines()[0]
    assert set(written) == set(MODELS)
    for name, data in written.items():
        schema = json.loads((FOLDER / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(json.loads(data), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema_version": 1}, json.loads((FOLDER / "unit.schema.json").read_text()))
