"""A distilled set as a data set on the Hugging Face hub: hf://datasets/USER/NAME, or .../NAME@REVISION."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vldd_dist.distilled_set.manifest import MANIFEST, DistilledManifest
from vldd_dist.distilled_set.reading import listed_objects
from vldd_dist.errors import StoreError, message_of
from vldd_dist.extras import how_to_add
from vldd_dist.store.faults import is_transient
from vldd_dist.store.objects import DamagedObject, sha256_hex

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "hf://"
# Files that the hub itself adds to a data set.
OF_THE_HUB = {".gitattributes"}


def push_to_hub(
    files: Mapping[str, Path],
    manifest: DistilledManifest,
    url: str,
    *,
    replace: bool,
    public: bool,
    api: "HfApi | None" = None,
) -> None:
    """Upload a set in one commit, and then check that the hub holds it. If the data set does not exist, it is created; the
    visibility of an existing one is not changed.

    Args:
        files: name in the data set -> local file; includes the manifest.
        api: None: an API with the token that huggingface_hub finds (HF_TOKEN, or that of `hf auth login`).

    Raises:
        StoreError: the URL is not that of a data set, the hub refuses or cannot be reached, or the data set has other content.
    """
    name, revision = name_on_hub(url)
    with _hub_errors(url):
        from huggingface_hub import HfApi

        api = HfApi() if api is None else api
        where: dict[str, Any] = {"repo_id": name, "repo_type": "dataset", "revision": revision}
        api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
        at_head = where | {"revision": api.repo_info(**where).sha}
        present = set(api.list_repo_files(**at_head)) - OF_THE_HUB
        old_manifest = _read(api, at_head, MANIFEST) if MANIFEST in present else None
        if replace or old_manifest != files[MANIFEST].read_bytes():
            if present and not replace:
                others = f"other files ({', '.join(sorted(present)[:3])}) are"
                what = others if old_manifest is None else "another distilled set is"
                raise StoreError(f"{url}: {what} there: name another data set, or give --replace")
            commit = api.create_commit(
                operations=_operations(files, sorted(listed_objects(old_manifest) & present - set(files))),
                commit_message=f"{manifest.pairs} distilled image-text pairs",
                # So that a commit that was made in the meantime is not overwritten.
                parent_commit=at_head["revision"],
                **where,
            )
            at_head = where | {"revision": commit.oid}
        infos = {info.path: info for info in api.get_paths_info(paths=list(files), **at_head)}
        for path, file in files.items():
            if not _matches(infos.get(path), file.read_bytes()):
                raise DamagedObject(f"{url}/{path}: the hub does not hold what was sent: push again with --replace")


def name_on_hub(url: str) -> tuple[str, str | None]:
    """USER/NAME and the revision in a URL. Raises StoreError if it is not the URL of a data set."""
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/?", url)
    if match is None:
        raise StoreError(f"{url}: a distilled set on the hub is at hf://datasets/USER/NAME or hf://datasets/USER/NAME@REVISION")
    return match[1], match[2]


def _operations(files: Mapping[str, Path], removed: list[str]) -> list[Any]:
    """What a commit does: adds or replaces the files, and removes those that only the earlier set has."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    return [*(CommitOperationAdd(path, str(file)) for path, file in files.items()), *map(CommitOperationDelete, removed)]


def _read(api: "HfApi", where: Mapping[str, Any], path: str) -> bytes:
    return Path(api.hf_hub_download(filename=path, **where)).read_bytes()


def _matches(info: Any, data: bytes) -> bool:
    """Whether the size and digest that the hub reports for a file are those of the data: the sha256 of a large file, else git's
    own digest."""
    if info is None or info.size != len(data):
        return False
    if info.lfs is not None:
        return bool(info.lfs.sha256 == sha256_hex(data))
    return bool(info.blob_id == sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


@contextlib.contextmanager
def _hub_errors(url: str) -> Iterator[None]:
    """Turns errors of huggingface_hub into StoreError, whose sentence never contains a token."""
    try:
        yield
    except StoreError:
        raise
    except ImportError:
        raise StoreError(f"{url}: needs huggingface_hub: {how_to_add('hf')}") from None
    except ValueError as error:
        raise StoreError(f"{url}: the hub refuses it ({message_of(error)}): correct the URL") from None
    except OSError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        kind = type(error).__name__
        if status in (401, 403) or "Token" in kind:
            raise StoreError(
                f"{url}: the hub refuses access: log in by `hf auth login`, or set HF_TOKEN to a token that may write there"
            ) from None
        if status in (409, 412):
            raise StoreError(f"{url}: the data set was changed while it was pushed to: push again") from None
        if status == 404:
            raise StoreError(
                f"{url}: there is no such data set or revision, or the token has no access: correct the URL or the token"
            ) from None
        if "Offline" in kind:
            raise StoreError(f"{url}: HF_HUB_OFFLINE is set: unset it to reach the hub") from None
        reason = f"HTTP {status}" if status else kind
        raise StoreError(f"{url}: the hub cannot be reached or failed ({reason}): push again") from None
    except Exception as error:
        # Errors of the HTTP library itself, whose texts could contain a token.
        if not is_transient(error):
            raise
        raise StoreError(f"{url}: the hub cannot be reached ({type(error).__name__}): push again") from None
