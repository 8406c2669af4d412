"""Trajectories through this package's store compared with plain s3fs, on one S3 server in one run.

    python -m benchmarks.store

Throughput: writing an expert's snapshots epoch by epoch and committing them, compared with s3fs's `pipe` of the same bytes;
then reading all of them into memory through an empty node cache, compared with s3fs's `get` followed by reading the files.
This package also hashes, checks the object after each write, and verifies what it reads. Bytes: what the outer loop reads for
its steps, compared with reading the whole expert in each step as the published code does; "cold" is each step with an empty
node cache, "warm" is a second pass with the node cache of the first.

The last line is JSON: write_ratio, read_ratio (speed of this package over plain s3fs, medians over rounds), bytes_ratio_cold,
bytes_ratio_warm.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fsspec
import torch
from fsspec.spec import AbstractFileSystem
from rich.console import Console
from rich.table import Column, Table

from benchmarks._measure import print_json
from vldd_dist.artifacts.facts import Facts
from vldd_dist.artifacts.tensor_files import tensors
from vldd_dist.artifacts.tensor_files.tensor_cache import PARALLEL_PREFETCHES, TensorCache
from vldd_dist.artifacts.tensor_files.trajectories import Trajectory, write_snapshots
from vldd_dist.artifacts.unit_writer import UnitWriter
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.distillation.objectives.trajectory_matching.sampler import Sampler
from vldd_dist.store.store import Store
from vldd_dist.testing.servers.s3_server import s3_server

BUCKET = "throughput"
EPOCHS = 10  # as published: 11 snapshots an expert
TOWERS = ("image", "text")
EXPERTS = 3
STEPS = 40
MIB = 1 << 20
ROWS = ("write, ours", "write, s3fs", "read, ours", "read, s3fs", "get only, s3fs")

# Epoch -> tower -> encoded parameters.
Snapshots = dict[int, dict[str, bytes]]


def make_snapshots(megabytes: int, seed: int) -> Snapshots:
    """Both towers after each epoch; the image tower has nine tenths of the bytes."""
    generator = torch.Generator().manual_seed(seed)

    def tower(share: float) -> bytes:
        count = int(megabytes * MIB * share) // 4
        return tensors.encode({f"layer{index}": torch.randn(count // 8, generator=generator) for index in range(8)})

    return {epoch: {"image": tower(0.9), "text": tower(0.1)} for epoch in range(EPOCHS + 1)}


def write_ours(store: Store, unit_id: str, snapshots: Snapshots) -> None:
    writer = UnitWriter(store, "trajectory", unit_id, {}, {})
    for epoch, encoded in snapshots.items():
        writer.objects |= write_snapshots(writer, epoch, encoded)
    writer.commit(Facts())


def write_plain(plain: AbstractFileSystem, folder: str, snapshots: Snapshots) -> None:
    for epoch, encoded in snapshots.items():
        plain.pipe({f"{folder}/{epoch}-{tower}": data for tower, data in encoded.items()})


def read_ours(store: Store, unit_id: str) -> None:
    """Read all objects of a unit, with as many parallel reads as the outer loop's prefetching uses."""
    reader = UnitReader(store, "trajectory", unit_id)
    with ThreadPoolExecutor(PARALLEL_PREFETCHES) as pool:
        for _ in pool.map(reader.read, reader.manifest.objects):
            pass


def get_plain(plain: AbstractFileSystem, folder: str, local: str) -> None:
    plain.get(plain.find(folder), local)


def read_files(local: str) -> None:
    contents = [path.read_bytes() for path in Path(local).iterdir()]
    assert len(contents) == len(TOWERS) * (EPOCHS + 1)


def seconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@contextmanager
def fresh_node() -> Iterator[None]:
    """In the `with` block, the node cache is a new, empty folder."""
    with tempfile.TemporaryDirectory(prefix="vldd-node-") as folder:
        os.environ["VLDD_CACHE_DIR"] = folder
        yield


def throughput(store: Store, megabytes: int, rounds: int) -> dict[str, list[float]]:
    """Row of the table -> seconds of each round."""
    durations: dict[str, list[float]] = {row: [] for row in ROWS}
    # Plain s3fs has its default checksums and signatures.
    plain = fsspec.filesystem("s3", skip_instance_cache=True)
    for number in range(rounds):
        snapshots = make_snapshots(megabytes, number)
        implementations = [
            partial(_round_of_ours, store, f"round-{number}", snapshots),
            partial(_round_of_plain, plain, f"{store.root}/plain/{number}", snapshots),
        ]
        # The order alternates, because the state of the machine differs for the first and the second.
        for measure in implementations if number % 2 else reversed(implementations):
            for row, value in measure().items():
                durations[row].append(value)
        # Objects are deleted, because the server keeps them in memory.
        store.delete([*store.keys("plain"), *store.keys("blobs")])
    return durations


def _round_of_ours(store: Store, unit_id: str, snapshots: Snapshots) -> dict[str, float]:
    written = seconds(lambda: write_ours(store, unit_id, snapshots))
    with fresh_node():
        return {"write, ours": written, "read, ours": seconds(lambda: read_ours(store, unit_id))}


def _round_of_plain(plain: AbstractFileSystem, folder: str, snapshots: Snapshots) -> dict[str, float]:
    written = seconds(lambda: write_plain(plain, folder, snapshots))
    with tempfile.TemporaryDirectory(prefix="vldd-plain-") as local:
        got = seconds(lambda: get_plain(plain, folder, local))
        return {"write, s3fs": written, "get only, s3fs": got, "read, s3fs": got + seconds(lambda: read_files(local))}


class Counting(Store):
    """A store that counts the bytes read from the server."""

    read_bytes = 0

    def read(self, key: str, at_most: int | None = None) -> bytes:
        data = super().read(key, at_most)
        self.read_bytes += len(data)
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        self.read_bytes += len(data)
        return data


def bytes_of_steps(store: Store, megabytes: int) -> tuple[float, float]:
    """Ratio of the bytes that the outer loop's steps read to those of whole experts, with cold and with warm node caches."""
    starts = [(epoch, epoch) for epoch in range(EPOCHS)]
    sampler = Sampler(20, EXPERTS, 20, inner_steps=8, starts=starts, min_experts=None, outer_steps=STEPS, seed=0)
    whole = 0
    for expert in range(EXPERTS):
        snapshots = make_snapshots(megabytes, expert)
        write_ours(store, f"expert-{expert}", snapshots)
        whole = sum(len(data) for encoded in snapshots.values() for data in encoded.values())
    drawn = [sampler.draw(step) for step in range(STEPS)]

    def read(counting: Counting, expert: int, start: int) -> None:
        # With a new tensor cache, so that only the node cache saves reads.
        trajectory = Trajectory(UnitReader(counting, "trajectory", f"expert-{expert}"), TensorCache())
        for epoch in (start, start + 1):
            for tower in TOWERS:
                trajectory.snapshot(epoch, tower)

    cold = Counting(store.url)
    for step in drawn:
        with fresh_node():
            read(cold, step.expert, step.starts[0])
    with fresh_node():
        for step in drawn:
            read(Counting(store.url), step.expert, step.starts[0])
        warm = Counting(store.url)
        for step in drawn:
            read(warm, step.expert, step.starts[0])
    return cold.read_bytes / (STEPS * whole), warm.read_bytes / (STEPS * whole)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trajectories through the store compared with plain s3fs.")
    parser.add_argument("--quick", action="store_true", help="snapshots of 4 MiB instead of 40: under a minute")
    arguments = parser.parse_args()
    megabytes, rounds = (4, 5) if arguments.quick else (40, 5)
    with s3_server() as server:
        os.environ.update(server.environment)
        store = Store(f"s3://{BUCKET}/x")
        store.fs.mkdir(BUCKET)
        durations = throughput(store, megabytes, rounds)
        cold, warm = bytes_of_steps(store, 4)
    size = megabytes * (EPOCHS + 1)
    print(f"{size} MiB in {len(TOWERS) * (EPOCHS + 1)} snapshots, {'RGW' if server.real else 'moto'}, medians of {rounds}:")
    table = Table("", Column("s", justify="right"), Column("MiB/s", justify="right"))
    for row, values in durations.items():
        median = statistics.median(values)
        table.add_row(row, f"{median:.2f}", f"{size / median:.0f}")
    Console().print(table)

    def ratio(what: str) -> float:
        ours, plain = durations[f"{what}, ours"], durations[f"{what}, s3fs"]
        return statistics.median(of_plain / of_ours for of_ours, of_plain in zip(ours, plain, strict=True))

    print_json(
        {
            "write_ratio": round(ratio("write"), 3),
            "read_ratio": round(ratio("read"), 3),
            "bytes_ratio_cold": round(cold, 3),
            "bytes_ratio_warm": round(warm, 4),
        }
    )


if __name__ == "__main__":
    main()
