"""Manifests: the list of a unit's objects, each with size and sha256. The manifest is written last and commits the unit.

A manifest is stored as canonical JSON with a seal, the sha256 of its other content. Objects can thus be checked against the
manifest, and the manifest against its seal.
"""

import json
import math
import reprlib
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vldd_dist import strict_json
from vldd_dist.errors import StoreError
from vldd_dist.plugins import STAGES
from vldd_dist.store.objects import DamagedObject, ObjectInfo
from vldd_dist.strict_model import StrictModel, first_error

SEAL = "seal"
RECORDED_PACKAGES = ("vldd_dist", "torch", "timm", "transformers", "peft", "webdataset", "ray", "deepspeed", "numpy")


class Sealed(StrictModel):
    """A record that is stored with a seal. It may contain numbers that are not finite, which `to_json` refuses.

    Each has a field `schema_version`, whose default is the version that is written, and the only one that `from_json` reads.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    @classmethod
    def own_version(cls) -> int:
        return int(cls.model_fields["schema_version"].default)


Record = TypeVar("Record", bound=Sealed)


class Usage(NamedTuple):
    """The time of a unit's last attempt, and the CPU cores and GPUs of all its workers."""

    seconds: float
    cpus: float
    gpus: float


class UnitManifest(Sealed):
    """The commit of a work unit.

    Attributes:
        unit: the unit's id.
        spec, inputs: what determined the unit's output (inputs: role -> KIND/ID).
        objects: name -> key, size and checksums.
        facts: small results, plain JSON; `StageSpec.result` has the fields of each kind.
        seconds: wall time of the attempt that committed the unit; for a resumed unit, the time since it was resumed.
        cpus, gpus: the CPU cores and GPUs that all workers of this attempt asked for.
    """

    schema_version: Literal[2] = 2
    kind: str
    unit: str
    spec: dict[str, Any]
    inputs: dict[str, str]
    objects: dict[str, ObjectInfo]
    facts: dict[str, Any]
    created_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float | None = Field(None, ge=0)
    cpus: float | None = Field(None, ge=0)
    gpus: float | None = Field(None, ge=0)
    versions: dict[str, str] = Field(default_factory=lambda: installed_versions())

    @property
    def usage(self) -> Usage | None:
        """None if it was not recorded."""
        if self.seconds is None or self.cpus is None or self.gpus is None:
            return None
        return Usage(self.seconds, self.cpus, self.gpus)

    def check_facts(self, source: str) -> None:
        """Raises DamagedObject unless the facts have the fields of their kind. Facts of an unknown kind are accepted."""
        if self.kind in STAGES:
            _validated(STAGES.load(self.kind).result, self.facts, f"{source}: facts")


class CheckpointRecord(Sealed):
    """The record of a checkpoint, written after its objects.

    Attributes:
        facts: the small parts of the state. In an expert's facts, `snapshots` lists those written so far, name -> description.
    """

    schema_version: Literal[2] = 2
    step: int
    objects: dict[str, ObjectInfo]
    facts: dict[str, Any]


def installed_versions() -> dict[str, str]:
    """Versions of the packages that affect results, found without importing them."""
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def to_json(model: Sealed) -> bytes:
    """Canonical JSON (sorted keys, indented by two spaces, one newline at the end) with its seal.

    Raises:
        StoreError: a number is not finite, so that JSON cannot express it.
    """
    tree = model.model_dump(mode="json")
    try:
        return canonical(tree | {SEAL: seal_of(tree)})
    except ValueError:
        raise StoreError(
            f"{type(model).__name__}: {_not_finite(tree)} is not a finite number and is not stored: the training has diverged"
        ) from None


def from_json(model: type[Record], data: bytes, source: str) -> Record:
    """Parse a record and check it.

    Raises:
        DamagedObject: it is not JSON, its seal does not match, or a field is wrong; the message names `source`.
        StoreError: this package cannot read its schema version.
    """
    try:
        tree = strict_json.parse(data)
    except ValueError as error:
        raise DamagedObject(f"{source}: {error}: the object is damaged") from None
    if not isinstance(tree, dict) or "schema_version" not in tree:
        raise DamagedObject(f"{source}: no schema_version: the object is damaged, or not one of this package's")
    version = tree["schema_version"]
    own = model.own_version()
    # `type` is compared because True == 1 and 2.0 == 2, and neither is a valid version.
    if type(version) is not int or version != own:
        newer = type(version) is int and version > own
        advice = "use a newer vldd_dist" if newer else "make it again, or read it with the version of vldd_dist that wrote it"
        raise StoreError(f"{source}: schema version {reprlib.repr(version)}; this vldd_dist reads {own}: {advice}")
    seal = tree.pop(SEAL, None)
    # The bytes are compared too, because a flipped bit does not always change the parsed tree.
    if seal != seal_of(tree) or data != canonical(tree | {SEAL: seal}):
        raise DamagedObject(f"{source}: its seal does not match its content: the object is damaged, or was edited by hand")
    return _validated(model, tree, source)


def _validated(model: type[BaseModel], tree: dict[str, Any], source: str) -> Any:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise DamagedObject(f"{source}: {first_error(error)}") from None


def canonical(tree: dict[str, Any]) -> bytes:
    """The JSON text of a record: the same value always has the same bytes. Raises ValueError unless all numbers are finite."""
    return (json.dumps(tree, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def seal_of(tree: dict[str, Any]) -> str:
    """The seal of a record: the sha256 in hex of its canonical JSON without a seal."""
    return sha256(canonical(tree)).hexdigest()


def _not_finite(tree: Any, path: str = "") -> str:
    """The path to the first number that is not finite; empty if there is none."""
    if isinstance(tree, float):
        return "" if math.isfinite(tree) else path
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return next(filter(None, (_not_finite(child, f"{path}.{key}".lstrip(".")) for key, child in children)), "")
