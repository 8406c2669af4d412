"""All methods on real photographs, in the space of a frozen backbone's features, under one protocol.

    python -m benchmarks.methods --photographs DIR [--store DIR] [--methods NAME ...] [--pairs M ...]

DIR has flickr8k/ and weights/ as the preset methods-flickr8k names them. What the variants need (data, features, experts,
coresets) is made once in the store; then each variant's distillation runs in this process. Every set, coresets and random pairs
too, is judged by students of the same protocol: five seeds, the learning rate from one list by validation, the test split once.
The last line is JSON: ours_mean_100, best_published_mean_100, best_coreset_mean_100, full_mean, ours_over_published,
ours_share_of_full.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from benchmarks._feature_space import FeatureSpace, set_bytes
from benchmarks._measure import print_json
from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.load_study import LoadedStudy, load_study
from vldd_dist.pipeline.context import read_rows
from vldd_dist.pipeline.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.graphs.experiment import make_graph
from vldd_dist.recall_metrics import DISTILLED
from vldd_dist.store.store import Store

PRESET, BASE, OURS = "jobs/presets/methods-flickr8k.yaml", "vldd", "bilevel"
# With --quick: these alone, shorter.
QUICK = ("vldd", "lors", "covmatch", OURS)
QUICK_CORESETS = ("random", "k_means", "facility_location")
QUICK_CHANGES, QUICK_STEPS = ["distill.validate_every=25", "evaluation.seeds=[0, 1, 2]"], 100

console = Console(width=140)


class Row(NamedTuple):
    """A method's students.

    Attributes:
        kind: full, coreset, published, ours or ablation.
        recalls: means of six test recalls, percent, one a student.
        seconds: CPU, of its distillation.
    """

    name: str
    kind: str
    pairs: int
    recalls: list[float]
    size: int
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.mean(self.recalls)


def read_study(photographs: Path, changes: list[str]) -> LoadedStudy:
    shards, weights = photographs / "flickr8k", photographs / "weights"
    return load_study(
        PRESET,
        [
            f"data.source.train={shards}/flickr8k-train-{{000..005}}.tar",
            f"data.source.val={shards}/flickr8k-val-000.tar",
            f"data.source.test={shards}/flickr8k-test-000.tar",
            f"model.image.weights={weights}/mobilenetv2_100_imagenet_fp16.safetensors",
            *changes,
        ],
    )


def coreset_rows(space: FeatureSpace, pairs: int, only: Collection[str] | None) -> Iterator[Row]:
    """Of each coreset one selection a seed, judged by one student, as in an experiment."""
    graph, found = make_graph(space.experiment), dict[str, list[float]]()
    for chosen in evaluated_sets(space.experiment):
        if chosen.method != DISTILLED and (only is None or chosen.method in only):
            unit = graph.unit(*chosen.source)
            rows = read_rows(UnitReader(space.store, unit.kind, unit.id), "pairs")
            found.setdefault(chosen.method, []).extend(space.with_students([chosen.seed]).recalls(space.of_pixels(rows)))
    for method, recalls in found.items():
        yield Row(method, "coreset", pairs, recalls, 0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--store", help="keeps what the variants need; none: a temporary folder")
    parser.add_argument("--methods", nargs="+", help="variants of the preset; none: all")
    parser.add_argument("--pairs", nargs="+", type=int, default=[100])
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}, fewer outer steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*measure_all(arguments, Store(arguments.store or folder))]
    show(rows)


def measure_all(arguments: argparse.Namespace, store: Store) -> Iterator[Row]:
    quick = arguments.quick
    study = read_study(arguments.photographs, QUICK_CHANGES if quick else [])
    names = arguments.methods or (QUICK if quick else list(study.experiments))
    steps = QUICK_STEPS if quick else None
    base = FeatureSpace.prepare(of_budget(study.experiments[BASE], arguments.pairs[0], steps), store)
    yield from told(iter([Row("full", "full", 0, base.full_data(epochs=6 if quick else 20), 0, 0.0)]))
    for pairs in arguments.pairs:
        for name in names:
            space = FeatureSpace.prepare(of_budget(study.experiments[name], pairs, steps), store)
            yield from told(coreset_rows(space, pairs, QUICK_CORESETS if quick else None))
            started = time.process_time()
            found = space.distil()
            seconds = time.process_time() - started
            kind = "ours" if name == OURS else "ablation" if name.startswith(OURS) else "published"
            yield from told(iter([Row(name, kind, found.total, space.recalls(found), set_bytes(found.rows), seconds)]))


def of_budget(experiment: Experiment, pairs: int, outer_steps: int | None) -> Experiment:
    """With other budgets of pairs and, where given, of outer steps. The preset is of 100 pairs; of methods whose similarity
    costs a pair, of one fewer."""
    distill = experiment.distill
    budget = pairs - (100 - distill.pairs[0])
    return experiment.model_copy(
        update={"distill": distill.model_copy(update={"pairs": [budget], "outer_steps": outer_steps or distill.outer_steps})}
    )


def told(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        # At once, where the output is a file too.
        print(f"{row.name}, {row.pairs} pairs: {row.mean:.1f}, {row.seconds:.0f} CPU s", flush=True)
        yield row


def show(rows: list[Row]) -> None:
    """The table and the line of JSON, of 100 pairs where they were measured."""
    full = next(row.mean for row in rows if row.kind == "full")
    columns = ("method", "pairs", "mean of six recalls", "std", "of full data, %", "KiB", "CPU s")
    table = Table(*columns, title="Flickr8k, feature space")
    for row in rows:
        spread = statistics.stdev(row.recalls) if len(row.recalls) > 1 else 0.0
        size, seconds = (f"{value:.0f}" if value else "" for value in (row.size / 1024, row.seconds))
        share = f"{100 * row.mean / full:.0f}"
        table.add_row(row.name, str(row.pairs or ""), f"{row.mean:.1f}", f"{spread:.1f}", share, size, seconds)
    console.print(table)

    figures = {"full_mean": full}
    for kind in ("ours", "published", "coreset"):
        if means := [row.mean for row in rows if row.kind == kind and row.pairs in (99, 100)]:
            figures["ours_mean_100" if kind == "ours" else f"best_{kind}_mean_100"] = max(means)
    if ours := figures.get("ours_mean_100"):
        figures["ours_share_of_full"] = ours / full
        if published := figures.get("best_published_mean_100"):
            figures["ours_over_published"] = ours / published
    print_json(figures)


if __name__ == "__main__":
    main()
