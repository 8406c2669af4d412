"""JSON Schemas of what lies in a store, generated from the models that read and write it.

    python -m vldd_dist.storage.schemas storage_schemas

writes them; a test keeps the committed files equal.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vldd_dist.storage.distilled import DistilledManifest, NearestCaptions
from vldd_dist.storage.manifests import UnitManifest
from vldd_dist.storage.units import CheckpointRecord

MODELS: dict[str, type[BaseModel]] = {
    "unit": UnitManifest,
    "checkpoint": CheckpointRecord,
    "distilled_set": DistilledManifest,
    "nearest_captions": NearestCaptions,
}


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> JSON Schema (2020-12) with an $id that carries the schema's version."""
    return {
        f"{name}.schema.json": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:vldd_dist:{name}:1",
            **model.model_json_schema(mode="serialization"),
        }
        for name, model in MODELS.items()
    }


def render(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    for file_name, content in schemas().items():
        Path(sys.argv[1], file_name).write_text(render(content))
