"""What a run would do and take, as a person reads it."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.cost_model.io_model import DataSize, Traffic, data_size, text_dim
from vldd_dist.cost_model.memory_model import GIB, RESERVED, Terms, peak
from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.graph import Graph, make_graph
from vldd_dist.pipeline.stage import all_stages
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.estimator import Estimator, estimated_stages
from vldd_dist.planner.stated_data import with_stated_data
from vldd_dist.planner.suggestions import memory_limit, suggest
from vldd_dist.planner.work import count_work, work_table
from vldd_dist.store.store import Store

# Of a peak: what takes less is not named.
WORTH_NAMING = 0.02


def print_plan(experiment: Experiment, store: Store, console: Console) -> None:
    """What a run would do, without doing it: a row a kind of unit; and what a unit takes, before anyone waits for a GPU. The
    source's first samples are read.

    Raises:
        DataError: none of them is usable.
    """
    planned, notes = with_stated_data({experiment.name: experiment})
    experiment = planned[experiment.name]
    graph = make_graph(experiment)
    units = graph.units()
    done = committed_units(store, units)
    check_source(graph, done)
    print_units(f"Plan of {experiment.name} in {store.url}", units, done, console)

    def known(unit: WorkUnit) -> UnitReader | None:
        return UnitReader(store, unit.kind, unit.id) if unit.id in done else None

    embeddings = graph.unit("caption_embeddings")
    dim, certain = text_dim(experiment.model.text, known(embeddings))
    if not certain:
        notes.append(f"the embeddings' size of {experiment.model.text.model} is not known here: {dim} is assumed")
    estimator, data = Estimator(dim), data_size(experiment, known(graph.unit("dataset")))
    _print_needs(experiment, estimator, data, notes, console)
    to_run = [unit for unit in units if unit.id not in done]
    console.print(work_table(count_work([(experiment, to_run, data, estimator)])))


def check_source(graph: Graph, done: set[str]) -> None:
    """Read the source's first samples, unless it is prepared: then it need not be visible here.

    Raises:
        DataError: none of them is usable.
    """
    if graph.unit("dataset").id not in done:
        source = graph.experiment.data.source
        for split in source.own_splits():
            source.check(split)


def print_units(title: str, units: list[WorkUnit], done: set[str], console: Console) -> None:
    """A row a kind of unit."""
    # No title of the table, which would break a long URL into lines.
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for column in ("stage", "units", "done", "to run", "workers each", "CPUs a worker", "GPUs a worker"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    totals = Counter(unit.kind for unit in units)
    finished = Counter(unit.kind for unit in units if unit.id in done)
    asking = {unit.kind: unit for unit in units}
    for stage in [stage for stage in all_stages() if stage.kind in totals]:
        total, unit = totals[stage.kind], asking[stage.kind]
        needs = unit.workers, f"{unit.resources.cpus:g}", f"{unit.resources.gpus:g}"
        row = (total, finished[stage.kind], total - finished[stage.kind], *needs)
        table.add_row(stage.title, *map(str, row))
    console.print(table)


def _print_needs(
    experiment: Experiment, estimator: Estimator, data: DataSize | None, notes: list[str], console: Console
) -> None:
    trace = estimator.trace(experiment.model, experiment.data.image_size)
    snapshot = sum(trace.trainable_bytes.values())
    if data is None:
        notes.append("data: images and caption embeddings, whose number is known once the dataset is done")
    console.print(
        f"The model has {_count(trace.parameters)} parameters, {_count(trace.trainable)} of them trainable; "
        f"a snapshot takes {format_size(snapshot)}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table(title="What one unit takes")
    for column in ("stage", "peak a rank", "GPU memory", "reads", "writes"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    sentences = []
    for stage in estimated_stages():
        moved = stage.traffic(experiment, estimator.trace, data) if stage.traffic else None
        traffic = ("-", "-") if moved is None else _traffic(moved, data is not None and data.measured)
        limit = memory_limit(stage.resources(experiment))
        try:
            terms = estimator.memory(experiment, stage)
        except ConfigError as error:
            notes.append(str(error))
            table.add_row(stage.title, "?", "?", *traffic)
            continue
        if not terms:
            continue
        table.add_row(stage.title, format_size(peak(terms)), fits(peak(terms), limit), *traffic)
        sentences.append(f"{stage.title}: {_breakdown(terms)}")
        if limit is not None and peak(terms) > limit:
            sentences.append(f"{stage.title} do not fit: {suggest(experiment, stage, limit, estimator)}")
    console.print(table)
    for sentence in [*sentences, *notes]:
        fits_not = " do not fit: " in sentence
        console.print(sentence, style="red" if fits_not else "", markup=False, highlight=False, soft_wrap=True)


def fits(most: int, limit: int | None) -> str:
    """A peak against what a GPU has, in words; the limit is without `RESERVED`."""
    return "-" if limit is None else f"{format_size(limit + RESERVED)}: {'fits' if most <= limit else 'too small'}"


def _breakdown(terms: Terms) -> str:
    """The peak's parts, largest first."""
    named = sorted(((size, name) for name, size in terms.items() if size >= WORTH_NAMING * peak(terms)), reverse=True)
    return ", ".join(f"{name} {format_size(size)}" for size, name in named)


def _traffic(moved: Traffic, measured: bool) -> tuple[str, str]:
    """What is read, and what is written."""
    if moved.data is None:
        reads = f"{format_size(moved.reads)} + data"
    else:
        reads = ("" if measured else "~") + format_size(moved.reads + moved.data)
    return reads, format_size(moved.writes)


def format_size(size: int) -> str:
    """Bytes for a person."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,}"
