"""`vldd doctor`: checks that the store, this machine and the cluster provide what a run needs. Each finding is one line, which
says what to do."""

import importlib
import importlib.util
import multiprocessing
import os
import platform
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import torch

from vldd_dist.artifacts.manifests import installed_versions
from vldd_dist.errors import VlddError, first_line
from vldd_dist.extras import EXTRAS, how_to_add
from vldd_dist.sharding.gpu_watch import watching
from vldd_dist.sharding.rendezvous import Rendezvous, join, leave, open_rendezvous
from vldd_dist.store.cache.node_cache import node_cache
from vldd_dist.store.store import Store

# Clock skew above the first is a NOTE, above the second a FAIL.
NOTED_SKEW_SECONDS, REFUSED_SKEW_SECONDS = 30, 900
# Extra -> what needs it. `zero` has a check of its own, and `gcs` and `azure` are named when such a URL is opened.
USES = {
    "distill": "vldd run, init and data, and build_towers",
    "minilm": "model.text.model: minilm, the encoder of the presets for scenes and Flickr8k",
    "hf": "data and distilled sets on the Hugging Face hub",
    "s3": "stores and sets at s3://",
}
# How long the two test ranks may take.
PAIR_SECONDS = 60


@dataclass(frozen=True)
class Finding:
    """The result of a check. `verdict` is ok, NOTE (a run works, with the limitation that is named), or FAIL (a run would
    not work)."""

    verdict: Literal["ok", "NOTE", "FAIL"]
    subject: str
    says: str


def examine(url: str) -> list[Finding]:
    """Run all checks on this machine and the store at the URL. A failed check does not stop the others."""
    findings: list[Finding] = []
    for subject, check in (
        ("store", lambda: _store(url)),
        ("clock", lambda: _clock(url)),
        ("node's cache", _cache),
        ("GPU", _gpu),
        ("libraries", _libraries),
        ("DeepSpeed", _deepspeed),
        ("ranks", _ranks),
        ("cluster", _cluster),
        ("versions", _versions),
    ):
        try:
            findings.extend(check())
        except VlddError as error:
            findings.append(Finding("FAIL", subject, str(error)))
        except Exception as error:  # drivers, disks and libraries may raise anything
            findings.append(Finding("FAIL", subject, f"{type(error).__name__}: {first_line(error)}"))
    return findings


def _store(url: str) -> Iterator[Finding]:
    store = Store(url)
    store.check_writable()
    yield Finding("ok", "store", f"{store.url}: an object was written, read back and removed")
    if not store.reports_checksums():
        yield Finding(
            "NOTE",
            "checksums",
            "this server reports none that can be compared, for example because it encrypts with keys of its own (SSE-KMS): "
            "each object is read back after it was written",
        )
    if store.creates_conditionally():
        yield Finding("ok", "conditional put", "if two writers make the same unit, exactly one commits")
    else:
        yield Finding(
            "NOTE",
            "conditional put",
            "not supported by this server or disk: an existing manifest is kept, but if two writers commit the same unit "
            "at the same instant, the later manifest replaces the earlier; both are equivalent, so results do not change",
        )


def _clock(url: str) -> Iterator[Finding]:
    skew = (Store(url).now() - datetime.now(UTC)).total_seconds()
    difference = f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the store's"
    if abs(skew) > REFUSED_SKEW_SECONDS:
        yield Finding(
            "FAIL", "clock", f"{difference}: object stores refuse signatures that far off: set the clock, for example by NTP"
        )
    elif abs(skew) > NOTED_SKEW_SECONDS:
        # `vldd gc` measures ages by the store's clock.
        yield Finding("NOTE", "clock", f"{difference}: the ages that `vldd status` shows are off by as much")
    else:
        yield Finding("ok", "clock", "agrees with the store's")


def _ranks() -> Iterator[Finding]:
    """Start two processes that join and run an all-reduce, as the ranks of a unit do."""
    device = "cuda" if torch.cuda.device_count() > 1 else "cpu"
    rendezvous, server = open_rendezvous("127.0.0.1", 2)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        sums = [pool.submit(_sum_of_ranks, rendezvous, rank, device) for rank in (0, 1)]
        try:
            results = [future.result(timeout=PAIR_SECONDS) for future in sums]
        except Exception as error:  # a network or driver may raise anything
            yield Finding("FAIL", "ranks", f"two ranks on {device} cannot communicate: {type(error).__name__}: {error}")
            return
    del server
    backend = "NCCL" if device == "cuda" else "gloo"
    if results == [3.0, 3.0]:
        yield Finding("ok", "ranks", f"an all-reduce over two ranks by {backend} succeeded")
    else:
        yield Finding("FAIL", "ranks", f"an all-reduce over two ranks by {backend} gave a wrong sum")


def _sum_of_ranks(rendezvous: Rendezvous, rank: int, device_type: str) -> float:
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device(device_type)
    if device_type == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=PAIR_SECONDS)
    ranks = join(rendezvous, rank, 2, device=device, timeout=timeout)
    with watching(device, timeout, lambda sentence: os._exit(1)):
        total = float(ranks.sum_in_place(torch.ones(1, device=device) * (rank + 1)))
    leave()
    return total


def _libraries() -> Iterator[Finding]:
    """A NOTE for each extra of which a module is missing."""
    missing = [extra for extra in USES if not all(map(importlib.util.find_spec, EXTRAS[extra]))]
    for extra in missing:
        says = f"not installed: the extra {extra!r}, which is needed for {USES[extra]}: {how_to_add(extra)}"
        yield Finding("NOTE", "libraries", says)
    if not missing:
        yield Finding("ok", "libraries", f"the extras {', '.join(USES)} are installed")


def _cluster() -> Iterator[Finding]:
    if importlib.util.find_spec("ray") is None:
        yield Finding("FAIL", "cluster", f"Ray is not installed, so nothing can run: {how_to_add('distill')}")
        return
    import ray

    from vldd_dist.ray_backend.joining import cluster_address, join_cluster

    address = cluster_address()
    if address is None:
        yield Finding("NOTE", "cluster", "RAY_ADDRESS names no cluster, so a run starts Ray on this machine")
        return
    join_cluster(address)
    resources = ray.cluster_resources()
    ray.shutdown()
    yield Finding("ok", "cluster", f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs")


def _cache() -> Iterator[Finding]:
    cache = node_cache()
    if cache.limit_bytes == 0:
        yield Finding("NOTE", "node's cache", "off (VLDD_CACHE_GIB=0): remote snapshots and shards are downloaded at each use")
        return
    try:
        cache.open().close()
    except OSError as error:
        yield Finding("NOTE", "node's cache", f"not used: {error}")
        return
    free = shutil.disk_usage(cache.folder).free
    limit, available = cache.limit_bytes / 2**30, free / 2**30
    if free < cache.limit_bytes:
        yield Finding(
            "NOTE",
            "node's cache",
            f"{cache.folder}: {available:.1f} GiB free on its disk, less than the limit of {limit:g}: lower VLDD_CACHE_GIB, or "
            "set VLDD_CACHE_DIR to a folder on another disk",
        )
    else:
        yield Finding("ok", "node's cache", f"{cache.folder}: limit {limit:g} GiB, {available:.1f} GiB free on its disk")


def _gpu() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding("NOTE", "GPU", "torch finds none, so runs use the CPU (a GPU needs a CUDA build of torch and a driver)")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        name = f"{index}: {properties.name}, compute capability {properties.major}.{properties.minor}"
        try:
            # A GPU that torch was not built for is found all the same; its first kernel fails.
            ones = torch.ones(8, 8, device=f"cuda:{index}")
            (ones @ ones).sum().item()
        except RuntimeError as error:
            built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, {', '.join(torch.cuda.get_arch_list())}"
            yield Finding("FAIL", "GPU", f"{name}: does not compute ({first_line(error)}): {built}; see docs/gpu.md")
            continue
        yield Finding("ok", "GPU", f"{name}, {properties.total_memory / 2**30:.0f} GiB")


def _deepspeed() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        module = importlib.import_module("deepspeed")
    except ModuleNotFoundError as error:
        says = f"not installed ({error}): sharding: zero1 to zero3 needs it: {how_to_add('zero')}"
        yield Finding("NOTE", "DeepSpeed", says)
        return
    except Exception as error:  # importing it runs compilers and probes drivers
        yield Finding("NOTE", "DeepSpeed", f"not usable ({type(error).__name__}: {error}): sharding: zero1 to zero3 needs it")
        return
    locks = stale_locks(Path(os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")).expanduser())
    for lock in locks:
        yield Finding(
            "FAIL", "DeepSpeed", f"{lock}: left by a compilation that was killed, and later ones wait for it: remove the file"
        )
    if not locks:
        yield Finding("ok", "DeepSpeed", f"{module.__version__}, no stale lock files")


def stale_locks(folder: Path) -> list[Path]:
    """Lock files of torch's extension builds below the folder."""
    return sorted(folder.glob("**/lock"))


def _versions() -> Iterator[Finding]:
    versions = {"python": platform.python_version(), **installed_versions()}
    yield Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
