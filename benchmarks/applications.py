"""The applications on real photographs, in the feature space of a frozen backbone.

    python -m benchmarks.applications --photographs DIR [--store DIR] [--only NAME ...] [--quick]

DIR has the folders flickr8k/ and weights/ (see benchmarks/photographs.py). Data, embeddings and features
are made once in the store. Pairs are distilled in this process, on features and by the bilevel objective without experts, as
applications distil parts of the data: from all training pairs, initialised from random real pairs and from noise. --quick:
one seed, fewer steps and candidates. The last line is JSON, with figures of the distilled pairs and of random ones.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch

from benchmarks._measure import print_json
from benchmarks.photographs import overrides_of
from vldd_dist.applications.architecture_search import ArchitectureSearch
from vldd_dist.applications.base import Application
from vldd_dist.applications.continual_learning import ContinualLearning
from vldd_dist.applications.feature_space.inputs import DistilledPairs, Inputs, select
from vldd_dist.applications.feature_space.part_distillation import START, PartDistillation
from vldd_dist.applications.membership_inference import MembershipInference
from vldd_dist.applications.one_shot_federated import OneShotFederated
from vldd_dist.applications.result import Result
from vldd_dist.applications.tables import application_table
from vldd_dist.config.loading.load import load_experiment
from vldd_dist.distillation.context import DistillationContext
from vldd_dist.distillation.initialisations.base import Initialisation, Start
from vldd_dist.distillation.initialisations.noise import noise_pairs
from vldd_dist.distillation.objectives import Objective
from vldd_dist.distillation.objectives.bilevel import Bilevel
from vldd_dist.method_names import DISTILLED
from vldd_dist.pipeline.committed import missing_units
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.in_process import run_in_process
from vldd_dist.pipeline.stages.application import inputs_of
from vldd_dist.reporting.tables.renderers.markdown import markdown
from vldd_dist.seeding import numpy_generator
from vldd_dist.store.store import Store
from vldd_dist.testing.experiments.tiny_experiment import DATA_KINDS, workspace

PAIRS = 100
FROM_NOISE = f"{DISTILLED} from noise"


class NoiseOfFeatures(Initialisation):
    """Gaussian noise with the mean and standard deviation of the training split's features and embeddings."""

    name: str = "noise_of_features"
    of_real_pairs: ClassVar[bool] = False

    def start(self, context: DistillationContext) -> Start:
        assert context.image_features is not None
        features, texts = context.image_features.of_split("train"), context.embeddings.of_split("train")[0]
        drawn, embeddings = noise_pairs(context.rows, context.image_shape, texts.mean(dim=0), texts.std(dim=0), context.seed)
        images = features.mean(dim=0) + features.std(dim=0) * drawn
        return Start(images.to(context.device), embeddings.to(context.device), {})


def applications(quick: bool) -> list[Application]:
    epochs, rounds = (3, [1, 3]) if quick else (6, [1, 3, 10])
    of_tasks = PartDistillation(objective=bilevel(8, 20, 256), outer_steps=30 if quick else 60, validate_every=15)
    of_clients = PartDistillation(objective=bilevel(5, 10, 128), outer_steps=20 if quick else 60, validate_every=20)
    return [
        ArchitectureSearch(candidates=12 if quick else 36, epochs=epochs),
        MembershipInference(references=4 if quick else 8),
        ContinualLearning(distill=of_tasks, epochs=epochs),
        OneShotFederated(distill=of_clients, epochs=epochs, rounds=rounds),
    ]


def bilevel(inner_steps: int, skipped_steps: int, real_batch_size: int) -> Objective:
    """The bilevel objective without experts as teachers."""
    return Bilevel(teacher_weight=0, inner_steps=inner_steps, skipped_steps=skipped_steps, real_batch_size=real_batch_size)


def prepared(photographs: Path, store: Store, quick: bool) -> Inputs:
    """The inputs of applications without distilled pairs. Units that the store lacks are run."""
    experiment = load_experiment(
        "jobs/presets/flickr8k-cpu.yaml",
        [
            *overrides_of(photographs),
            f"evaluation.seeds=[{'0' if quick else '0, 1, 2'}]",
            "evaluation.learning_rates=[0.1, 0.3]",
            "applications.run=[continual_learning]",
        ],
    )
    graph = Graph(experiment)
    run_in_process(missing_units(store, [unit for unit in graph.units() if unit.kind in DATA_KINDS]), store)
    return replace(inputs_of(workspace(store, graph.wanted("application")[0])), count=PAIRS)


def distilled(inputs: Inputs, outer_steps: int, *, noise: bool) -> DistilledPairs:
    """Pairs distilled from all training pairs."""
    settings = PartDistillation(objective=Bilevel(teacher_weight=0), outer_steps=outer_steps, validate_every=outer_steps // 2)
    start = None if noise else select(START, inputs.train, PAIRS, numpy_generator(inputs.seed, "benchmark start"))
    part = inputs.students, inputs.train, inputs.validation
    pairs = settings.run_from(*part, NoiseOfFeatures(), PAIRS) if start is None else settings.run(*part, start)
    return DistilledPairs(pairs, start)


def results_of(application: Application, inputs: Inputs, from_noise: DistilledPairs | None) -> Iterator[Result]:
    yield from application.run(inputs)
    if from_noise is not None and isinstance(application, MembershipInference):
        for result in application.run(replace(inputs, distilled=from_noise)):
            if result.method == DISTILLED:
                yield result.model_copy(update={"method": FROM_NOISE})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--store", help="folder for data, embeddings and features; default: a temporary folder")
    names = [one.name for one in applications(True)]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps, rounds and candidates")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [one for one in applications(arguments.quick) if arguments.only is None or one.name in arguments.only]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = prepared(arguments.photographs, Store(arguments.store or folder), arguments.quick)
        from_noise = None
        if any("distilled" in application.needed() for application in chosen):
            steps = 40 if arguments.quick else 100
            inputs = replace(inputs, distilled=distilled(inputs, steps, noise=False))
            from_noise = distilled(inputs, steps, noise=True)
        for application in chosen:
            started = time.process_time()
            results = [*results_of(application, inputs, from_noise)]
            print(markdown(application_table(application, "Flickr8k", results)))
            print(f"{time.process_time() - started:.0f} CPU s\n", flush=True)
            figures |= figures_of(application, results)
    print_json(figures)


def figures_of(application: Application, results: list[Result]) -> dict[str, float]:
    """APPLICATION_SETTING_METHOD_KEY -> mean of the figures."""
    figures = {}
    for result in results:
        if result.method in (DISTILLED, FROM_NOISE, START.label):
            for key, values in result.figures.items():
                name = "_".join(filter(None, (application.name, result.setting, result.method, key)))
                figures[name.replace(" ", "_")] = statistics.mean(values)
    return figures


if __name__ == "__main__":
    main()
