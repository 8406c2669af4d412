"""All methods on real photographs, in the feature space of a frozen backbone, under one protocol.

    python -m benchmarks.methods --photographs DIR [--store DIR] [--methods NAME ...] [--pairs M ...]

DIR has the folders flickr8k/ and weights/ (see benchmarks/photographs.py). The inputs of the variants
(data, features, experts, coresets) and the figures of distillations are stored, so that an interrupted run continues where it
stopped; figures of other code are measured again. Every method is tuned in the same way for each budget: with one seed, its
outer learning rates of images and texts are multiplied by each of --rates, and the best by validation is used for --seeds
distillations. While the largest of several multiples is the best, twice it is tried too, and half of the smallest while that
is the best. A budget is the bytes of M pairs of features. A learned similarity counts as part of it: such a method has fewer
pairs. All sets, also coresets and random pairs, are evaluated by students with the same protocol: five seeds, a learning rate
chosen on validation from one list, one measurement on the test split. The share of full data is that of the same protocol on
all pairs with the same heads. The last line is JSON: ours_mean_100, best_published_mean_100, best_coreset_mean_100,
full_mean, ours_over_published, ours_share_of_full.
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from benchmarks._measure import print_json
from benchmarks.methods.budget import pair_bytes, pairs_of_budget
from benchmarks.methods.feature_space import FeatureSpace
from benchmarks.methods.method_runs import KeptFigures, MethodRun, digest_of_code, method_run
from benchmarks.photographs import overrides_of
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import LoadedStudy, load_description
from vldd_dist.method_names import DISTILLED
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store

KINDS = ("full", "coreset", "published", "ours", "ablation")
PRESET, BASE = "jobs/presets/methods-flickr8k.yaml", "vldd"
BILEVEL = "bilevel"
# Variants that are not published methods: bilevel, and PTM-ST with another start and more inner steps.
OURS = (BILEVEL, "ptm-st-k-means")
# Variants with settings for images, which are not run by default.
FOR_IMAGES = ("bilevel-images",)
# With --quick: only these, with fewer steps.
QUICK = ("vldd", "lors", "covmatch", BILEVEL)
QUICK_CORESETS = ("random", "k_means", "facility_location")
QUICK_CHANGES, QUICK_STEPS = ["distill.validate_every=25", "evaluation.seeds=[0, 1, 2]"], 100

console = Console(width=140)


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        kind: full, coreset, published, ours or ablation.
        pairs: number of pairs; 0 for full data.
        budget: number of plain pairs that take as many bytes, with which the row is compared; 0 for full data.
        means: means of six test recalls, percent: one for each distillation (over its students), or one for each student if
            nothing is distilled.
        students: standard deviation over the students of a distillation, averaged over distillations.
        outer_steps: outer steps of a distillation.
        rate: the multiple of the outer learning rates.
        size: size of the pairs, bytes.
        seconds: CPU seconds of a distillation.
        experts_seconds: wall seconds of the experts that it takes, with one thread each; 0 if none.
        full: mean of full data with the same heads, percent.
    """

    name: str
    kind: str
    pairs: int
    budget: int
    means: list[float]
    students: float | None = None
    outer_steps: int | None = None
    rate: float | None = None
    size: int | None = None
    seconds: float | None = None
    experts_seconds: float | None = None
    full: float = math.nan

    @property
    def mean(self) -> float:
        return statistics.mean(self.means)

    @property
    def deviation(self) -> float | None:
        return deviation(self.means)


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (divisor n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def read_study(photographs: Path, changes: list[str]) -> LoadedStudy:
    study = load_description(PRESET, [*overrides_of(photographs), *changes])
    assert isinstance(study, LoadedStudy)
    return study


def coreset_rows(kept: KeptFigures, space: FeatureSpace, pairs: int, only: Collection[str] | None) -> Iterator[Row]:
    """A row for each coreset: one selection for each seed, evaluated by one student, as in an experiment."""
    graph, recalls_of = Graph(space.experiment), dict[str, list[float]]()
    for chosen in evaluated_sets(space.experiment):
        if chosen.method != DISTILLED and (only is None or chosen.method in only):
            unit = graph.unit(*chosen.source)

            def measure(unit: WorkUnit = unit, seed: int = chosen.seed) -> list[float]:
                return space.with_students([seed]).recalls(space.of_coreset(unit))

            recalls = kept.once(f"{chosen.method} {unit.id} {chosen.seed}", space, measure)
            recalls_of.setdefault(chosen.method, []).extend(recalls)
    for method, recalls in recalls_of.items():
        yield Row(method, "coreset", pairs, pairs, recalls)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--store", help="folder for inputs and figures; default: a temporary folder")
    parser.add_argument("--methods", nargs="+", help="variants of the preset; default: all but those for images")
    parser.add_argument("--pairs", nargs="+", type=int, default=[100])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.5, 1, 2, 4], help="multiples of the outer learning rates")
    parser.add_argument("--seeds", type=int, default=5, help="number of distillations for each row")
    parser.add_argument(
        "--quick", action="store_true", help=f"{', '.join(QUICK)}, fewer outer steps, one distillation, no tuning"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rates, arguments.seeds = [1.0], 1
    study = read_study(arguments.photographs, QUICK_CHANGES if arguments.quick else [])
    if unknown := [name for name in arguments.methods or [] if name not in study.experiments]:
        parser.error(f"--methods: {unknown[0]} is not a variant of {PRESET}: choose from {', '.join(study.experiments)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*measure_all(arguments, study, Path(arguments.store or folder))]
    show(rows)


def measure_all(arguments: argparse.Namespace, study: LoadedStudy, folder: Path) -> Iterator[Row]:
    quick, store = arguments.quick, Store(str(folder))
    names = arguments.methods or (QUICK if quick else [name for name in study.experiments if name not in FOR_IMAGES])
    steps = QUICK_STEPS if quick else None
    kept = KeptFigures(folder / "method_runs.jsonl", digest_of_code())
    base = FeatureSpace.prepare(with_pairs(study.experiments[BASE], arguments.pairs[0], steps), store)
    bytes_of_pair = pair_bytes(base)
    epochs = 6 if quick else 20
    # Full data is measured once for all methods with the same heads.
    full_of: dict[str, Row] = {}
    for name in [BASE, *names]:
        model = study.experiments[name].model
        heads = str((model.image.head, model.text.head, model.joint_dim))
        if heads not in full_of:
            space = FeatureSpace.prepare(with_pairs(study.experiments[name], arguments.pairs[0], steps), store)
            means = kept.once(f"full {epochs}", space, partial(space.full_data, epochs))
            full_of[heads] = Row("full" if name == BASE else f"full, heads of {name}", "full", 0, 0, means)
            yield printed(full_of[heads])
        full_of[name] = full_of[heads]
    for name in names:
        for budget in arguments.pairs:
            experiment = study.experiments[name]
            experiment = with_pairs(experiment, pairs_of_budget(experiment.model.loss, budget, bytes_of_pair), steps)
            space = FeatureSpace.prepare(experiment, store)
            full = full_of[name].mean
            for row in coreset_rows(kept, space, budget, QUICK_CORESETS if quick else None):
                yield printed(row._replace(full=full))
            run = partial(method_run, kept, store, name, experiment, budget)
            rate = best_rate(partial(run, seed=0), arguments.rates)
            row = row_of([run(rate, seed) for seed in range(arguments.seeds)])
            yield printed(row._replace(full=full, experts_seconds=space.experts_seconds))


def best_rate(run: Callable[[float], MethodRun], rates: Sequence[float]) -> float:
    """The multiple of the outer rates with the best validation. While the largest of several is the best, twice it is tried
    too, and while the smallest is, half of it, so that no method is tuned by a range that ends too early."""
    validation = {rate: run(rate).validation for rate in rates}

    def best() -> float:
        return max(validation, key=lambda rate: validation[rate])

    while len(validation) > 1 and best() in (min(validation), max(validation)):
        rate = best() / 2 if best() == min(validation) else 2 * best()
        validation[rate] = run(rate).validation
    return best()


def row_of(runs: Sequence[MethodRun]) -> Row:
    first = runs[0]
    kind = "ours" if first.method in OURS else "ablation" if first.method.startswith(BILEVEL) else "published"
    students = statistics.mean(deviation(run.recalls) or 0.0 for run in runs) if len(first.recalls) > 1 else None
    seconds = statistics.median(run.seconds for run in runs)
    means = [run.mean for run in runs]
    row = Row(first.method, kind, first.pairs, first.budget, means, students)
    return row._replace(outer_steps=first.outer_steps, rate=first.rate, size=first.size, seconds=seconds)


def with_pairs(experiment: Experiment, pairs: int, outer_steps: int | None) -> Experiment:
    """The experiment with this number of pairs and, if given, another number of outer steps."""
    distill = experiment.distill
    return experiment.model_copy(
        update={"distill": distill.model_copy(update={"pairs": [pairs], "outer_steps": outer_steps or distill.outer_steps})}
    )


def printed(row: Row) -> Row:
    """Print a row. The output is flushed, so that it appears at once even if it is a file."""
    print(f"{row.name}, {row.pairs or 'all'} pairs: {row.mean:.1f}, {row.seconds or 0:.0f} CPU s", flush=True)
    return row


def show(rows: list[Row]) -> None:
    """Print the table and the line of JSON, whose figures are those of a budget of 100 pairs."""
    full = next(row.mean for row in rows if row.kind == "full")
    columns = (
        "method",
        "pairs",
        "mean",
        "± runs",
        "± students",
        "runs",
        "of full data, %",
        "outer steps",
        "x rates",
        "KiB",
        "CPU s",
        "experts s",
    )
    table = Table(*columns, title="Flickr8k, feature space: mean of six test recalls, percent")
    for row in sorted(rows, key=lambda row: (row.budget, KINDS.index(row.kind))):
        figures = (f"{value:.1f}" if value is not None else "" for value in (row.mean, row.deviation, row.students))
        sizes = (
            f"{value:g}" if value else ""
            for value in (
                row.outer_steps,
                row.rate,
                row.size and round(row.size / 1024),
                row.seconds and round(row.seconds),
                row.experts_seconds and round(row.experts_seconds),
            )
        )
        share = "" if math.isnan(row.full) else f"{100 * row.mean / row.full:.0f}"
        table.add_row(row.name, str(row.pairs or "all"), *figures, str(len(row.means)), share, *sizes)
    console.print(table)

    summary = {"full_mean": full}
    for kind in ("ours", "published", "coreset"):
        if means := [row.mean for row in rows if row.kind == kind and row.budget == 100]:
            summary["ours_mean_100" if kind == "ours" else f"best_{kind}_mean_100"] = max(means)
    if ours := summary.get("ours_mean_100"):
        summary["ours_share_of_full"] = ours / full
        if published := summary.get("best_published_mean_100"):
            summary["ours_over_published"] = ours / published
    print_json(summary)


if __name__ == "__main__":
    main()
