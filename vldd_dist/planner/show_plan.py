"""What a run would do and take, as a person reads it."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from vldd_dist.artifacts.units import UnitReader
from vldd_dist.config.experiment import Experiment
from vldd_dist.errors import ConfigError
from vldd_dist.monitoring.stage_names import STAGE_NAMES
from vldd_dist.pipeline.committed import committed_units
from vldd_dist.pipeline.graph import make_plan
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.planner.estimator import ESTIMATED_KINDS, Estimator
from vldd_dist.planner.io_model import Traffic, data_size, text_dim, traffic
from vldd_dist.planner.memory_model import GIB, RESERVED, Terms, peak
from vldd_dist.planner.suggestions import mend, resources_of, room
from vldd_dist.store.store import Store

# Of a peak: what takes less is not named.
WORTH_NAMING = 0.02


def print_plan(experiment: Experiment, store: Store, console: Console) -> None:
    """What a run would do, without doing it: a row a kind of unit; and what a unit takes, before anyone waits for a GPU."""
    plan = make_plan(experiment)
    units = plan.units()
    done = committed_units(store, units)
    console.print(_units_table(f"Plan of {experiment.name} in {store.url}", units, done))

    def known(unit: WorkUnit) -> UnitReader | None:
        return UnitReader(store, unit.kind, unit.id) if unit.id in done else None

    embeddings = plan.experts[0].inputs["embeddings"]
    dim, certain = text_dim(experiment.model.text, known(embeddings))
    notes = []
    if not certain:
        notes.append(f"the embeddings' size of {experiment.model.text.model} is not known here: {dim} is assumed")
    _print_needs(experiment, Estimator(dim), known(plan.dataset), notes, console)


def _units_table(title: str, units: list[WorkUnit], done: set[str]) -> Table:
    table = Table(title=title)
    for column in ("stage", "units", "done", "to run", "workers each", "CPUs a worker", "GPUs a worker"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    totals = Counter(unit.kind for unit in units)
    finished = Counter(unit.kind for unit in units if unit.id in done)
    asking = {unit.kind: unit for unit in units}
    for kind in [kind for kind in STAGE_NAMES if kind in totals]:
        total = totals[kind]
        unit = asking[kind]
        needs = unit.workers, f"{unit.resources.cpus:g}", f"{unit.resources.gpus:g}"
        row = (total, finished[kind], total - finished[kind], *needs)
        table.add_row(STAGE_NAMES[kind], *map(str, row))
    return table


def _print_needs(
    experiment: Experiment, estimator: Estimator, dataset: UnitReader | None, notes: list[str], console: Console
) -> None:
    trace = estimator.trace(experiment)
    snapshot = sum(trace.trainable_bytes.values())
    data = data_size(experiment, dataset)
    if data is None:
        notes.append("data: pictures and caption embeddings, whose number is known once the dataset is done")
    console.print(
        f"The model has {_count(trace.parameters)} parameters, {_count(trace.trainable)} of them trainable; "
        f"a snapshot takes {_size(snapshot)}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table(title="What one unit takes")
    for column in ("stage", "peak a rank", "GPU memory", "reads", "writes"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    sentences = []
    for kind in ESTIMATED_KINDS:
        moved = traffic(kind, experiment, trace, data)
        reads = _reads(moved, data is not None and data.measured)
        limit = room(resources_of(experiment, kind))
        try:
            terms = estimator.memory(experiment, kind)
        except ConfigError as error:
            notes.append(str(error))
            table.add_row(STAGE_NAMES[kind], "?", "?", reads, _size(moved.writes))
            continue
        verdict = "-" if limit is None else f"{_size(limit + RESERVED)}: {'fits' if peak(terms) <= limit else 'too small'}"
        table.add_row(STAGE_NAMES[kind], _size(peak(terms)), verdict, reads, _size(moved.writes))
        sentences.append(f"{STAGE_NAMES[kind]}: {_breakdown(terms)}")
        if limit is not None and peak(terms) > limit:
            sentences.append(f"{STAGE_NAMES[kind]} do not fit: {mend(experiment, kind, limit, estimator)}")
    console.print(table)
    for sentence in [*sentences, *notes]:
        fits_not = " do not fit: " in sentence
        console.print(sentence, style="red" if fits_not else "", markup=False, highlight=False, soft_wrap=True)


def _breakdown(terms: Terms) -> str:
    """The peak's parts, largest first."""
    named = sorted(((size, name) for name, size in terms.items() if size >= WORTH_NAMING * peak(terms)), reverse=True)
    return ", ".join(f"{name} {_size(size)}" for size, name in named)


def _reads(moved: Traffic, measured: bool) -> str:
    if moved.data is None:
        return f"{_size(moved.reads)} + data"
    return ("" if measured else "~") + _size(moved.reads + moved.data)


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,}"
