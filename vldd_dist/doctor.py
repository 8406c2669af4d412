"""What a run needs of its surroundings, tried one by one: each finding is one line that says what to do about it."""

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vldd_dist.errors import VlddError
from vldd_dist.storage.cache import node_cache
from vldd_dist.storage.manifests import installed_versions
from vldd_dist.storage.store import Store


@dataclass(frozen=True)
class Finding:
    """`verdict`: ok, NOTE (works, with what it says), FAIL (a run would not)."""

    verdict: Literal["ok", "NOTE", "FAIL"]
    subject: str
    says: str


def examine(url: str) -> list[Finding]:
    """Everything, whatever fails on the way."""
    findings: list[Finding] = []
    for subject, examination in (
        ("store", lambda: _store(url)),
        ("node's cache", _cache),
        ("GPU", _gpu),
        ("DeepSpeed", _deepspeed),
        ("versions", _versions),
    ):
        try:
            findings.extend(examination())
        except VlddError as error:
            findings.append(Finding("FAIL", subject, str(error)))
    return findings


def _store(url: str) -> Iterator[Finding]:
    store = Store(url)
    store.check_writable()
    yield Finding("ok", "store", f"{store.url}: an object was written, read back and removed")
    if store.creates_conditionally():
        yield Finding("ok", "conditional put", "of two writers of one unit exactly one commits")
    else:
        yield Finding(
            "NOTE",
            "conditional put",
            "not known to this server: an existing manifest is respected, but of two writers that commit a unit at the same "
            "instant the later manifest stands; both are whole and say the same, so results do not change",
        )


def _cache() -> Iterator[Finding]:
    cache = node_cache()
    if cache.limit_bytes == 0:
        yield Finding("NOTE", "node's cache", "off (VLDD_CACHE_GIB=0): remote snapshots and shards are fetched each time")
        return
    cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.folder).free
    limit, room = cache.limit_bytes / 2**30, free / 2**30
    if free < cache.limit_bytes:
        yield Finding(
            "NOTE",
            "node's cache",
            f"{cache.folder}: {room:.1f} GiB free on its disk, less than its limit of {limit:g}: lower VLDD_CACHE_GIB, or "
            "name another disk by VLDD_CACHE_DIR",
        )
    else:
        yield Finding("ok", "node's cache", f"{cache.folder}: up to {limit:g} GiB, {room:.1f} free")


def _gpu() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding("NOTE", "GPU", "none seen by torch: runs use the CPU (a CUDA build of torch and a driver are needed)")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", "GPU", f"{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _deepspeed() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        module = importlib.import_module("deepspeed")
    except Exception as error:  # it runs compilers and probes drivers when imported
        yield Finding("NOTE", "DeepSpeed", f"not usable ({type(error).__name__}: {error}): sharded students need it")
        return
    locks = stale_locks(Path(os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")).expanduser())
    for lock in locks:
        yield Finding(
            "FAIL", "DeepSpeed", f"{lock}: left by a compilation that was killed, later starts wait for it: remove it"
        )
    if not locks:
        yield Finding("ok", "DeepSpeed", f"{module.__version__}, no lock of a killed compilation")


def stale_locks(folder: Path) -> list[Path]:
    """Locks of torch's extension builds below the folder."""
    return sorted(folder.glob("**/lock"))


def _versions() -> Iterator[Finding]:
    versions = {"python": platform.python_version(), **installed_versions()}
    yield Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
