"""Training speed of experts: compared with the published method, several on a node, two workers, and after the loss of a node.

    python -m benchmarks.experts [--quick] [--nfnet]

The published method decodes, resizes and augments the original image for every batch and runs the frozen BERT on every batch's
captions; this package prepares images once, reads caption embeddings, and augments in threads during the step. Both train the
same image tower with the same batches, with one thread for the model and others that load batches ahead (BERT-base has random
weights here, which do not affect its speed).
Its rate in this comparison is that of images which an earlier epoch has decoded; preparing the images and embedding the
captions, once per data set, are not counted.
Co-located experts share the images that one of them has decoded; separate experts have their own caches. Their rates are
measured on whole expert units, which stream from a store, after a first epoch. The pipeline without a model shows the saving by
sharing if the model took no time.

--nfnet adds NFNet-L0 at 224 px, the paper's image tower, to the first comparison.

The last line is JSON: speedup_single, speedup_colocated_4, scaling_2_workers, recovery_s (seconds from the loss of a node until
its expert reports samples again, on a local cluster; it resumes from its last checkpoint).
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks._measure import FreshProcess, print_json
from benchmarks.experts.photographs import write_shards
from benchmarks.experts.published_expert import PublishedExpert
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.config.sections.experts import AugmentSettings
from vldd_dist.data.prepared.batches.image_cache import DecodedImages
from vldd_dist.data.prepared.batches.stream import EpochStream, StreamSettings
from vldd_dist.data.prepared.dataset import Dataset
from vldd_dist.data.prepared.embeddings import CaptionEmbeddings
from vldd_dist.events import Progress, UnitReport
from vldd_dist.pipeline.execute import execute
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, workspace

PRESETS = Path(__file__).parents[2] / "jobs" / "presets"
IMAGES, PER_SHARD, BATCH = 512, 64, 32
TOWERS = {"nf_regnet_b1": 128, "nfnet_l0": 224}
COLOCATED = 4
ROUNDS = 5


def describe(folder: Path, tower: str) -> Experiment:
    """Experts of an image tower on the photographs in the folder, with enough epochs for any measurement."""
    overrides = [
        "data.source=shards",
        *(f"data.source.{split}={folder / f'{split}-*.tar'}" for split in ("train", "val", "test")),
        *("data.train_images=null", "data.val_images=null", "data.test_images=null"),
        f"data.image_size={TOWERS[tower]}",
        f"data.shard_images={PER_SHARD}",
        f"model.image.model={tower}",
        *("model.image.weights=random", "model.joint_dim=128", "model.image.train=full"),
        "model.image.head={kind: linear}",
        f"experts.count={COLOCATED}",
        *("experts.epochs=1000", f"experts.batch_size={BATCH}", "experts.lr_image=0.001", "experts.lr_text=0.001"),
        *("experts.augment={}", "experts.cache_mib=1000", "experts.readers=1"),
    ]
    return load_experiment(PRESETS / "scenes.yaml", overrides)


def units(folder: Path, tower: str, kind: str) -> list[WorkUnit]:
    return [unit for unit in Graph(describe(folder, tower)).units() if unit.kind == kind]


def prepare(folder: Path, tower: str) -> None:
    """Run the units that experts need, in the folder's store."""
    torch.set_num_threads(1)
    store = Store(str(folder / f"store-{tower}"))
    for kind in DATA_KINDS:
        for unit in units(folder, tower, kind):
            execute(unit.order(), store, lambda event: None)


class MeasurementDone(Exception):
    """Raised by a report to end the unit, because the measurement is over."""


@dataclass
class Meter:
    """Measures samples per second. It skips `skipped` samples, calls `wait`, and then measures for `batches` batches or
    `seconds` seconds, whichever is shorter."""

    skipped: int
    batches: int
    seconds: float = 1e9
    wait: Callable[[], Any] = time.monotonic
    began: float | None = None
    first: int = 0
    rate: float = 0.0

    def __call__(self, event: UnitReport) -> None:
        if not isinstance(event, Progress) or event.done < self.skipped:
            return
        if self.began is None:
            self.wait()
            self.began, self.first = time.monotonic(), event.done
            return
        elapsed, done = time.monotonic() - self.began, event.done - self.first
        self.rate = done / elapsed
        if done >= self.batches * BATCH or elapsed > self.seconds:
            raise MeasurementDone


_barrier: Barrier


def _enter(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)


def train(folder: str, tower: str, index: int, cache: str, meter: Meter) -> float:
    """Samples per second of one expert's unit, which runs until the meter ends it and is not committed."""
    os.environ["VLDD_CACHE_DIR"] = cache
    unit = units(Path(folder), tower, "expert")[index]
    with tempfile.TemporaryDirectory() as temporary:
        store = _view_of(Path(folder) / f"store-{tower}", Path(temporary))
        try:
            execute(unit.order(), store, meter)
        except MeasurementDone:
            return meter.rate
    raise AssertionError("the unit has too few epochs for the measurement")


def _view_of(store: Path, folder: Path) -> Store:
    """A store in a temporary folder with links to all units, so that an expert's objects are removed with the folder."""
    for kind in (store / "units").iterdir():
        (folder / "units" / kind.name).mkdir(parents=True)
        for unit in kind.iterdir():
            os.symlink(unit, folder / "units" / kind.name / unit.name)
    return Store(str(folder))


def train_beside(folder: str, tower: str, index: int, cache: str, seconds: float) -> float:
    return train(folder, tower, index, cache, Meter(IMAGES, 10**9, seconds, wait=_barrier.wait))


def streamed_inputs(folder: str, tower: str, index: int) -> tuple[Dataset, CaptionEmbeddings]:
    """The images and the embeddings of their captions that an expert of the folder's store streams."""
    context = workspace(Store(f"{folder}/store-{tower}"), units(Path(folder), tower, "expert")[index])
    return context.dataset, context.embeddings


def stream_beside(folder: str, tower: str, index: int, cache: str, augmented: bool) -> float:
    """Images per second of the pipeline without a model, over three epochs after a barrier; the caches are empty before."""
    os.environ["VLDD_CACHE_DIR"] = cache
    dataset, embeddings = streamed_inputs(folder, tower, index)
    decoded = DecodedImages.of(dataset, "train", 1 << 30)
    _barrier.wait()
    started, images = time.monotonic(), 0
    for epoch in (1, 2, 3):
        settings = StreamSettings(BATCH, AugmentSettings() if augmented else None)
        stream = EpochStream(embeddings, dataset, "train", settings, seed=index, epoch=epoch, decoded=decoded)
        images += sum(len(batch.texts) for batch in stream)
    return images / (time.monotonic() - started)


def together(function: Callable[..., float], count: int, *arguments: Any, folder: str, tower: str, shared: bool) -> float:
    """The sum of the rates that `count` processes reach in parallel."""
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    context = get_context("spawn")
    barrier = context.Barrier(count)
    with tempfile.TemporaryDirectory() as caches, ProcessPoolExecutor(count, context, _enter, (barrier,)) as pool:
        futures = [
            pool.submit(function, folder, tower, index, f"{caches}/{0 if shared else index}", *arguments)
            for index in range(count)
        ]
        return sum(future.result() for future in futures)


def compare_single(folder: Path, tower: str, rounds: int, batches: int) -> tuple[float, float]:
    """Samples per second of the published method and of this package: medians over alternating rounds. In the first epoch
    of an expert this package decodes images; as it does not in later ones, they are decoded in a round that is not measured."""
    rates: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as cache, FreshProcess() as published, FreshProcess() as ours:

        def our_rate() -> float:
            # The same unit has the same batches in every round.
            return ours.run(train, str(folder), tower, 0, cache, Meter(2 * BATCH, batches))

        our_rate()
        for _ in range(rounds):
            rates[0].append(published.run(_published_rate, str(folder), tower, batches))
            rates[1].append(our_rate())
    return statistics.median(rates[0]), statistics.median(rates[1])


def _published_rate(folder: str, tower: str, batches: int) -> float:
    expert = PublishedExpert(sorted(Path(folder).glob("train-*.tar")), tower, TOWERS[tower])
    return expert.rate(BATCH, batches)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description="Training speed of experts.")
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--nfnet", action="store_true", help="NFNet-L0 at 224 px too")
    arguments = parser.parse_args()
    rounds, seconds = (1, 10.0) if arguments.quick else (ROUNDS, 30.0)
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "Raylet is terminated|has been marked dead"
    # Imported here, because Ray reads its environment when it is imported.
    from benchmarks.experts.recovery import recovery_seconds

    table = Table("what", "reference", "ours", "ratio")

    def row(what: str, reference: float, ours: float) -> float:
        table.add_row(what, f"{reference:.1f}/s", f"{ours:.1f}/s", f"{ours / reference:.2f}")
        return ours / reference

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, images in (("train", IMAGES), ("val", 32), ("test", 32)):
            write_shards(folder, split, images, PER_SHARD)
        towers = list(TOWERS) if arguments.nfnet else ["nf_regnet_b1"]
        single = {}
        for tower in towers:
            with FreshProcess() as process:
                process.run(prepare, folder, tower)
            what = f"one expert, {tower} at {TOWERS[tower]} px: published method, ours"
            single[tower] = row(what, *compare_single(folder, tower, rounds if tower == "nf_regnet_b1" else 1, 4))
        where = {"folder": name, "tower": "nf_regnet_b1"}
        pairs: dict[str, list[tuple[float, float]]] = {"one": [], "four": [], "plain": [], "augmented": []}
        for _ in range(min(rounds, 3)):
            one = together(train_beside, 1, seconds, shared=True, **where)
            pairs["one"].append((one, together(train_beside, 2, seconds, shared=True, **where)))
            pairs["four"].append(
                tuple(together(train_beside, COLOCATED, seconds, shared=shared, **where) for shared in (False, True))  # type: ignore[arg-type]
            )
            for what, augmented in (("plain", False), ("augmented", True)):
                pairs[what].append(
                    tuple(together(stream_beside, COLOCATED, augmented, shared=shared, **where) for shared in (False, True))  # type: ignore[arg-type]
                )
    medians = {what: [statistics.median(column) for column in zip(*rates, strict=True)] for what, rates in pairs.items()}
    scaling = row("two workers: one, two", *medians["one"])
    colocated = row("4 experts on a node: separate, sharing decoded images", *medians["four"])
    row("pipeline alone, no augmentation: separate, sharing", *medians["plain"])
    row("pipeline alone, augmented: separate, sharing", *medians["augmented"])
    Console(width=128).print(table)
    recovery = recovery_seconds()
    print_json(
        {
            "speedup_single": round(single["nf_regnet_b1"], 2),
            "speedup_colocated_4": round(colocated, 2),
            "scaling_2_workers": round(scaling, 2),
            "recovery_s": round(recovery, 1),
        }
    )


if __name__ == "__main__":
    # So that the cluster's processes end if the benchmark is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
