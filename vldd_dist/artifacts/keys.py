"""The keys in a store of units: how each is made, and what a key is.

    units/KIND/ID/manifest.json                     the commit, created by a conditional put after all objects are written
    units/KIND/ID/ATTEMPT/NAME                      objects written by one attempt
    units/KIND/ID/checkpoints/STEP-ATTEMPT.json     a checkpoint record of one attempt
    units/KIND/ID/checkpoints/00000000-agreed.json  objects that all attempts agreed to write (see `UnitWriter.agree`)
    blobs/AB/SHA256                                 objects named by their content, shared by all units
    distilled/NAME-Mpairs-seedS-ID/FILE             a file of a published set; ID has the first digits of its publication's
    runs/NAME/RUN.json, status/NAME/RUN.json        of the run RUN of the experiment or study NAME (`artifacts.runs`)
    vldd-store.json                                 marks the folder as a store of units; written before the first unit

ATTEMPT is a random name, so two attempts at one unit never write the same object and the manifest that is created first
describes objects of a single attempt.
"""

import re
from dataclasses import dataclass

UNITS, BLOBS, PUBLISHED, RUNS, STATUS = "units", "blobs", "distilled", "runs", "status"
STORE_MARK = "vldd-store.json"
# The commit of a unit, and of a published set.
MANIFEST = "manifest.json"
# In place of an attempt's name: the checkpoint that is of all attempts.
AGREED = "agreed"
# Digits of the publication's id at the end of a published set's folder.
_PUBLICATION_DIGITS = 8

_UNIT = rf"(?P<unit>{UNITS}/[^/]+/[^/]+)"
_MANIFEST = re.compile(rf"{_UNIT}/{re.escape(MANIFEST)}")
_CHECKPOINT = re.compile(rf"{_UNIT}/checkpoints/(?P<step>\d{{8}})-(?P<attempt>\w+)\.json")
_OBJECT = re.compile(rf"{_UNIT}/(?P<attempt>[0-9a-f]{{8}})/(?P<name>.+)")
_BLOB = re.compile(rf"{BLOBS}/(?P<start>[0-9a-f]{{2}})/(?P<sha256>(?P=start)[0-9a-f]{{62}})")
_SET = rf"(?P<folder>{PUBLISHED}/[^/]+-\d+pairs-seed-?\d+-[0-9a-f]{{{_PUBLICATION_DIGITS}}})"
_PUBLISHED_FILE = re.compile(rf"{_SET}/(?P<name>.+)")
_RECORD = re.compile(rf"(?P<folder>{RUNS}|{STATUS})/(?P<run>[^/]+/[0-9a-f]{{8}})\.json")
# `store.backends.local_files` writes them.
_TEMPORARY = re.compile(rf"({UNITS}|{BLOBS}|{RUNS}|{STATUS})/(.+/)?\.tmp-[0-9a-f]{{32}}")


def prefix_of(kind: str, unit_id: str) -> str:
    """The key prefix of a unit, without a trailing slash."""
    return f"{UNITS}/{kind}/{unit_id}"


def kind_and_id(prefix: str) -> tuple[str, str]:
    """The kind and the id of the unit with this key prefix."""
    _, kind, unit_id = prefix.split("/")
    return kind, unit_id


@dataclass(frozen=True)
class ManifestKey:
    """The manifest of the unit with this prefix."""

    unit: str

    @property
    def key(self) -> str:
        return f"{self.unit}/{MANIFEST}"


@dataclass(frozen=True)
class CheckpointKey:
    """The record of a checkpoint of the unit with this prefix, by one attempt or `AGREED`."""

    unit: str
    step: int
    attempt: str

    @property
    def key(self) -> str:
        return f"{checkpoints_of(self.unit)}/{self.step:08d}-{self.attempt}.json"


def checkpoints_of(prefix: str) -> str:
    """The folder with the records of a unit's checkpoints."""
    return f"{prefix}/checkpoints"


@dataclass(frozen=True)
class ObjectKey:
    """An object that one attempt at the unit with this prefix writes."""

    unit: str
    attempt: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.unit}/{self.attempt}/{self.name}"


@dataclass(frozen=True)
class BlobKey:
    """An object named by its content."""

    sha256: str

    @property
    def key(self) -> str:
        return f"{BLOBS}/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class PublishedKey:
    """A file of the published set in this folder."""

    folder: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.name}"


def published_folder(name: str, pairs: int, seed: int, publication: str) -> str:
    """The folder of a published set.

    Args:
        name: of the experiment.
        publication: id of the unit that publishes it.
    """
    return f"{PUBLISHED}/{name}-{pairs}pairs-seed{seed}-{publication[:_PUBLICATION_DIGITS]}"


def is_published_by(folder: str, publication: str) -> bool:
    """Whether the unit with this id published the set in this folder."""
    return folder.endswith(f"-{publication[:_PUBLICATION_DIGITS]}")


@dataclass(frozen=True)
class TemporaryKey:
    """A file of a write that has not ended, or never will, and that belongs to no attempt."""

    key: str


@dataclass(frozen=True)
class RecordKey:
    """A record of the run NAME/RUN, in RUNS or STATUS."""

    folder: str
    run: str

    @property
    def key(self) -> str:
        return f"{self.folder}/{self.run}.json"


Key = ManifestKey | CheckpointKey | ObjectKey | BlobKey | PublishedKey | RecordKey | TemporaryKey


def parse(key: str) -> Key | None:
    """What this key below `units/`, `blobs/`, `distilled/`, `runs/` or `status/` is; None for a key that this package does not
    write."""
    if match := _MANIFEST.fullmatch(key):
        return ManifestKey(match["unit"])
    if match := _CHECKPOINT.fullmatch(key):
        return CheckpointKey(match["unit"], int(match["step"]), match["attempt"])
    if match := _OBJECT.fullmatch(key):
        return ObjectKey(match["unit"], match["attempt"], match["name"])
    if match := _BLOB.fullmatch(key):
        return BlobKey(match["sha256"])
    if match := _PUBLISHED_FILE.fullmatch(key):
        return PublishedKey(match["folder"], match["name"])
    if match := _RECORD.fullmatch(key):
        return RecordKey(match["folder"], match["run"])
    return TemporaryKey(key) if _TEMPORARY.fullmatch(key) else None


def run_units_key(experiment: str, run: str) -> str:
    """The key of the record of a run's units."""
    return RecordKey(RUNS, f"{experiment}/{run}").key


def status_key(experiment: str, run: str) -> str:
    """The key of a run's status."""
    return RecordKey(STATUS, f"{experiment}/{run}").key
