"""Keys: what is built is recognised as what it is, and nothing else is."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vldd_dist.artifacts.keys import (
    AGREED,
    BlobKey,
    CheckpointKey,
    Key,
    ManifestKey,
    ObjectKey,
    PublishedKey,
    RecordKey,
    TemporaryKey,
    is_published_by,
    kind_and_id,
    parse,
    prefix_of,
    published_folder,
)

HEX = "0123456789abcdef"
KINDS = st.text(string.ascii_lowercase + "_", min_size=1)
IDS = st.text(HEX, min_size=16, max_size=16)
UNITS = st.builds(prefix_of, KINDS, IDS)
ATTEMPTS = st.text(HEX, min_size=8, max_size=8)
NAMES = st.text(string.ascii_letters + string.digits + "._-/", min_size=1).map(lambda name: name.strip("/") or "x")
EXPERIMENTS = st.text(string.ascii_letters + string.digits + "._-", min_size=1)
FOLDERS = st.builds(published_folder, EXPERIMENTS, st.integers(1, 10**6), st.integers(0, 10**6), IDS)
KEYS = st.one_of(
    st.builds(ManifestKey, UNITS),
    st.builds(CheckpointKey, UNITS, st.integers(0, 10**8 - 1), st.one_of(ATTEMPTS, st.just(AGREED))),
    st.builds(ObjectKey, UNITS, ATTEMPTS, NAMES),
    st.builds(BlobKey, st.text(HEX, min_size=64, max_size=64)),
    st.builds(PublishedKey, FOLDERS, NAMES),
    st.builds(RecordKey, st.sampled_from(["runs", "status"]), st.builds("{}/{}".format, EXPERIMENTS, ATTEMPTS)),
)


@given(built=KEYS)
def test_what_is_built_is_recognised(built: Key) -> None:
    assert parse(built.key) == built


@given(kind=KINDS, unit_id=IDS)
def test_a_prefix_has_kind_and_id(kind: str, unit_id: str) -> None:
    assert kind_and_id(prefix_of(kind, unit_id)) == (kind, unit_id)


@given(publication=IDS, other=IDS, name=EXPERIMENTS)
def test_a_folder_belongs_to_its_publication(publication: str, other: str, name: str) -> None:
    folder = published_folder(name, 100, 0, publication)
    assert is_published_by(folder, publication)
    assert is_published_by(folder, other) == (publication[:8] == other[:8])


@pytest.mark.parametrize(
    ("key", "built"),
    [
        ("units/expert/0123456789abcdef/manifest.json", ManifestKey("units/expert/0123456789abcdef")),
        ("units/expert/01/checkpoints/00000012-0a1b2c3d.json", CheckpointKey("units/expert/01", 12, "0a1b2c3d")),
        ("units/publication/01/checkpoints/00000000-agreed.json", CheckpointKey("units/publication/01", 0, AGREED)),
        ("units/expert/01/0a1b2c3d/epoch-0001/a.json", ObjectKey("units/expert/01", "0a1b2c3d", "epoch-0001/a.json")),
        (f"blobs/0a/0a{62 * '1'}", BlobKey(f"0a{62 * '1'}")),
        ("distilled/x-4pairs-seed0-01234567/pairs/0.tar", PublishedKey("distilled/x-4pairs-seed0-01234567", "pairs/0.tar")),
        (f"units/expert/01/.tmp-{32 * 'a'}", TemporaryKey(f"units/expert/01/.tmp-{32 * 'a'}")),
        (f"blobs/0a/.tmp-{32 * 'a'}", TemporaryKey(f"blobs/0a/.tmp-{32 * 'a'}")),
        ("status/x/01234567.json", RecordKey("status", "x/01234567")),
        (f"status/x/.tmp-{32 * 'a'}", TemporaryKey(f"status/x/.tmp-{32 * 'a'}")),
        # Of an attempt, whose objects are removed together.
        (f"units/k/01/0a1b2c3d/.tmp-{32 * 'a'}", ObjectKey("units/k/01", "0a1b2c3d", f".tmp-{32 * 'a'}")),
        (f"blobs/0a/1a{62 * '1'}", None),
        ("units/expert/01/notes.txt", None),
        ("units/expert/01/attempt/x", None),
        ("distilled/x/manifest.json", None),
        ("runs/x/notes.json", None),
        ("report/x/index.html", None),
    ],
)
def test_stored_keys(key: str, built: Key | None) -> None:
    """The keys of stores that exist (storage_schemas/README.md)."""
    assert parse(key) == built
    assert built is None or built.key == key
