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
all pairs with the same heads. A second table compares bilevel with the other sets of equal bytes: the difference of the means
and its standard error over the test images, which all were measured on. The last line is JSON: ours_mean_100,
best_published_mean_100, best_coreset_mean_100, full_mean, ours_over_published, ours_share_of_full, and
ours_minus_published_100 with ours_minus_published_100_error.
"""

import argparse
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.methods.budget import pair_bytes, pairs_of_budget
from benchmarks.methods.feature_space import FeatureSpace
from benchmarks.methods.method_runs import KeptFigures, MethodRun, digest_of_code, method_run
from benchmarks.methods.recalls import Recalls
from benchmarks.methods.rows import BILEVEL, Row, mean_of_images, row_of
from benchmarks.methods.table import show
from benchmarks.photographs import overrides_of
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.descriptions import LoadedStudy, load_description
from vldd_dist.method_names import DISTILLED
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.stages.shared.evaluated_sets import evaluated_sets
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.store.store import Store

PRESET, BASE = "jobs/presets/methods-flickr8k.yaml", "vldd"
# Variants with settings for images, which are not run by default.
FOR_IMAGES = ("bilevel-images",)
# With --quick: only these, with fewer steps.
QUICK = ("vldd", "lors", "covmatch", BILEVEL)
QUICK_CORESETS = ("random", "k_means", "facility_location")
QUICK_CHANGES, QUICK_STEPS = ["distill.validate_every=25", "evaluation.seeds=[0, 1, 2]"], 100


def read_study(photographs: Path, changes: list[str]) -> LoadedStudy:
    study = load_description(PRESET, [*overrides_of(photographs), *changes])
    assert isinstance(study, LoadedStudy)
    return study


def coreset_rows(kept: KeptFigures, space: FeatureSpace, pairs: int, only: Collection[str] | None) -> Iterator[Row]:
    """A row for each coreset: one selection for each seed, evaluated by one student, as in an experiment."""
    graph, recalls_of = Graph(space.experiment), dict[str, list[Recalls]]()
    for chosen in evaluated_sets(space.experiment):
        if chosen.method != DISTILLED and (only is None or chosen.method in only):
            unit = graph.unit(*chosen.source)

            def measure(unit: WorkUnit = unit, seed: int = chosen.seed) -> Recalls:
                return space.with_students([seed]).recalls(space.of_coreset(unit))

            recalls = Recalls(*kept.once(f"{chosen.method} {unit.id} {chosen.seed}", space, measure))
            recalls_of.setdefault(chosen.method, []).append(recalls)
    for method, selections in recalls_of.items():
        means = [mean for recalls in selections for mean in recalls.students]
        yield Row(method, "coreset", pairs, pairs, means, mean_of_images([recalls.images for recalls in selections]))


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
            recalls = Recalls(*kept.once(f"full {epochs}", space, partial(space.full_data, epochs)))
            full_of[heads] = Row("full" if name == BASE else f"full, heads of {name}", "full", 0, 0, *recalls)
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


if __name__ == "__main__":
    main()
