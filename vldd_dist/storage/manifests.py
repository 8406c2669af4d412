"""Manifests: what a unit made, each object with its size and sha256. The manifest is written last: it is the commit."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vldd_dist.errors import StoreError

SCHEMA_VERSION = 1
Model = TypeVar("Model", bound=BaseModel)
RECORDED_PACKAGES = ("vldd_dist", "torch", "timm", "transformers", "peft", "webdataset", "ray", "deepspeed", "numpy")


class DamagedObject(StoreError):
    """An object is not what was once written: making it again mends it."""


class ObjectInfo(BaseModel):
    """Where an object lies (key relative to the store or folder), its size in bytes and its sha256 in hex."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, key: str, data: bytes) -> "ObjectInfo":
        return cls(key=key, size=len(data), sha256=sha256_hex(data))

    def verify(self, data: bytes, source: str) -> bytes:
        """The data itself. Raises DamagedObject naming the source when size or sha256 differ."""
        if len(data) != self.size:
            raise DamagedObject(f"{source}: {len(data)} bytes, its manifest says {self.size}: the object is damaged")
        if sha256_hex(data) != self.sha256:
            raise DamagedObject(f"{source}: its sha256 differs from the manifest's: the object is damaged")
        return data


class UnitManifest(BaseModel):
    """The commit of a work unit.

    Attributes:
        unit: the unit's id.
        spec, inputs: the question (inputs: role -> KIND/ID).
        objects: name -> where it lies.
        facts: small results, plain JSON.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    kind: str
    unit: str
    spec: dict[str, Any]
    inputs: dict[str, str]
    objects: dict[str, ObjectInfo]
    facts: dict[str, Any]
    created_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = Field(default_factory=lambda: installed_versions())


def installed_versions() -> dict[str, str]:
    """Versions of the packages that shape results, without importing them."""
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def sha256_hex(data: bytes) -> str:
    return sha256(data).hexdigest()


def to_json(model: BaseModel) -> bytes:
    """Canonical JSON: sorted keys, two-space indent, one newline at the end."""
    return (json.dumps(model.model_dump(mode="json"), sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def from_json(model: type[Model], data: bytes, source: str) -> Model:
    """Parse and check.

    Raises:
        DamagedObject: no JSON, or a wrong field; the source is named.
        StoreError: a schema version this package does not know.
    """
    try:
        tree = json.loads(data)
    except ValueError:
        raise DamagedObject(f"{source}: not JSON: the object is damaged") from None
    if not isinstance(tree, dict) or "schema_version" not in tree:
        raise DamagedObject(f"{source}: no schema_version: the object is damaged, or not one of this package's")
    version = tree["schema_version"]
    if version != SCHEMA_VERSION:
        raise StoreError(f"{source}: schema version {version!r}; this vldd_dist reads version {SCHEMA_VERSION}: upgrade it")
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DamagedObject(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
