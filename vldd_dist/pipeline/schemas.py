"""JSON Schemas of the files in a store, generated from the models that read and write them. To write them:

    python -m vldd_dist.pipeline.schemas storage_schemas

A test checks that the files in the repository are up to date.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, create_model

from vldd_dist.artifacts.manifests import SEAL, CheckpointRecord, Sealed, UnitManifest
from vldd_dist.artifacts.runs.run_status import RunStatus
from vldd_dist.artifacts.runs.run_units import RunUnits
from vldd_dist.distilled_set.manifest import DistilledManifest, NearestCaptions
from vldd_dist.pipeline.stage import StageSpec, all_stages


def _unit_model(stage: StageSpec) -> type[BaseModel]:
    fields: dict[str, Any] = {"kind": (Literal[stage.kind], ...), "facts": (stage.result, ...)}
    doc = f"The commit of a unit of kind {stage.kind}."
    return create_model(f"{stage.kind}_manifest", __base__=UnitManifest, __doc__=doc, **fields)


def models() -> dict[str, type[BaseModel]]:
    """Name of a schema -> the model that reads and writes such files, including the manifests of all registered stages."""
    return {
        **{stage.kind: _unit_model(stage) for stage in all_stages()},
        "checkpoint": CheckpointRecord,
        "distilled_set": DistilledManifest,
        "run_status": RunStatus,
        "run_units": RunUnits,
        "nearest_captions": NearestCaptions,
    }


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> JSON Schema (2020-12), whose $id contains the schema's version."""
    return {f"{name}.schema.json": _schema(name, model) for name, model in models().items()}


def _schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(mode="serialization")
    if issubclass(model, Sealed):
        schema["properties"][SEAL] = {
            "type": "string",
            "pattern": "^[0-9a-f]{64}$",
            "description": "sha256 of this file's JSON without the seal: keys sorted, indented by two, one newline at the end",
        }
        schema["required"] = sorted([*schema["required"], "schema_version", SEAL])
    version = (model if issubclass(model, Sealed) else UnitManifest).own_version()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:vldd_dist:{name}:{version}",
        **schema,
    }


def render(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    for file_name, content in schemas().items():
        Path(sys.argv[1], file_name).write_text(render(content))
