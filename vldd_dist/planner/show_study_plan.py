"""What a study would do and take, as a person reads it."""

from rich.console import Console
from rich.table import Table

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.load_study import LoadedStudy
from vldd_dist.cost_model.io_model import DataSize, data_size, text_dim
from vldd_dist.cost_model.memory_model import peak
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.study_graph import StudyGraph
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.show_plan import check_source, fits, format_size, print_units
from vldd_dist.planner.stated_data import with_stated_data
from vldd_dist.planner.suggestions import memory_limit
from vldd_dist.planner.work import Planned, count_work, work_table
from vldd_dist.store.store import Store


def print_study_plan(study: LoadedStudy, store: Store, console: Console) -> None:
    """What a run of the study would do, without doing it: units, how many of them variants share, the largest that one takes
    of memory, and time."""
    experiments, notes = with_stated_data(study.experiments)
    graph = StudyGraph(experiments)
    units = graph.units()
    done = committed_units(store, units)
    for one in graph.graphs.values():
        check_source(one, done)
    print_units(f"Plan of {study.name} in {store.url}", units, done, console)
    console.print(
        f"{len(study.experiments)} variants; {len(graph.shared())} of the {len(units)} units are of more than one, and each is "
        f"made once: {graph.asked()} units would run in stores of their own.",
        highlight=False,
        soft_wrap=True,
    )
    planned = _planned(graph, done, store)
    console.print(_needs_table([(experiment, estimator) for experiment, _, _, estimator in planned]))
    console.print(work_table(count_work(planned)))
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _planned(graph: StudyGraph, done: set[str], store: Store) -> list[Planned]:
    """Variant after variant, with the units that no earlier one has."""
    estimators: dict[int, Estimator] = {}
    sizes: dict[str, DataSize | None] = {}
    found = []
    for one, own in graph.owners():
        dataset = one.unit("dataset")
        if dataset.id not in sizes:
            reader = UnitReader(store, dataset.kind, dataset.id) if dataset.id in done else None
            sizes[dataset.id] = data_size(one.experiment, reader)
        dim, _ = text_dim(one.experiment.model.text, None)
        to_run = [unit for unit in own if unit.id not in done]
        found.append((one.experiment, to_run, sizes[dataset.id], estimators.setdefault(dim, Estimator(dim))))
    return found


def _needs_table(experiments: list[tuple[Experiment, Estimator]]) -> Table:
    """For each stage the variant whose unit takes most."""
    table = Table(title="The largest unit of each stage")
    for column in ("stage", "variant", "peak a rank", "GPU memory"):
        table.add_column(column, justify="left" if column in ("stage", "variant") else "right")
    for stage in estimated_stages():
        peaks = [
            (peak(estimator.memory(experiment, stage)), number) for number, (experiment, estimator) in enumerate(experiments)
        ]
        most, number = max(peaks)
        if most == 0:
            continue
        experiment, _ = experiments[number]
        limit = memory_limit(stage.resources(experiment))
        table.add_row(stage.title, experiment.name, format_size(most), fits(most, limit))
    return table
