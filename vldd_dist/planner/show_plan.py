"""Prints a plan for people. Nothing is cut off in a narrow terminal: names wrap, and figures stay on one line."""

from rich.console import Console
from rich.table import Table

from vldd_dist.cost_model.io_model import Traffic
from vldd_dist.cost_model.memory_model import GIB, RESERVED, Terms, peak
from vldd_dist.pipeline.stage import StageSpec
from vldd_dist.planner.plan import Need, Plan, fits
from vldd_dist.planner.work import CORE_SUSTAINED, GPU_SUSTAINED, Work

# Parts of a peak that are smaller than this fraction are not printed.
WORTH_NAMING = 0.02
PFLOP = 1e15


def print_plan(plan: Plan, console: Console) -> None:
    """Print the units, the memory and traffic of one unit of each stage, and the work left to do."""
    _print_units(plan, console)
    if plan.model:
        _say(
            f"The model has {_count(plan.model.parameters)} parameters, {_count(plan.model.trainable)} of them trainable; "
            f"a snapshot takes {format_size(plan.model.snapshot)}.",
            console,
        )
    if plan.sharing:
        units = sum(stage.units for stage in plan.stages)
        _say(
            f"{plan.sharing.variants} variants share {plan.sharing.shared} of the {units} units, each of which runs once; in "
            f"separate stores, {plan.sharing.asked} units would run.",
            console,
        )
    _print_needs(plan, console)
    _print_work(plan.work, console)
    for note in plan.notes:
        _say(f"{note}.", console)


def _table(title: str, *heads: str, names: int = 1) -> Table:
    """A table whose first `names` columns contain names, which may wrap; the other columns contain figures, which do not."""
    table = Table(title=title or None, title_justify="left")
    for number, head in enumerate(heads):
        is_name = number < names
        table.add_column(head, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    return table


def _say(sentence: str, console: Console, style: str = "") -> None:
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)


def _print_units(plan: Plan, console: Console) -> None:
    # Not as the title of the table, which would break a long URL into lines.
    where = "for an empty store" if plan.store is None else f"in {plan.store}"
    _say(f"Plan of {plan.name} {where}", console, "bold")
    table = _table("", "stage", "units", "done", "to run", "workers", "CPUs", "GPUs")
    for one in plan.stages:
        figures = (one.units, one.done, one.units - one.done, one.workers, f"{one.cpus:g}", f"{one.gpus:g}")
        table.add_row(one.stage.title, *map(str, figures))
    console.print(table)
    _say("The workers are for each unit, the CPUs and GPUs for each worker.", console)


def _print_needs(plan: Plan, console: Console) -> None:
    of = ["of"] if plan.sharing else []
    title = "Needs of the largest unit, by stage" if plan.sharing else "Needs of one unit, by stage"
    table = _table(title, "stage", *of, "peak", "GPU memory", "reads", "writes", names=1 + len(of))
    for need in plan.needs:
        name = [need.experiment] if plan.sharing else []
        traffic = ("-", "-") if need.traffic is None else _traffic(need.traffic, need.dataset_size_is_measured)
        memory = ("?", "?") if need.memory_terms is None else (_peak(need), _limit(need))
        table.add_row(need.stage.title, *name, *memory, *traffic)
    console.print(table)
    if plan.needs:
        _say("The peak is the memory of one worker.", console)
    for need in plan.needs:
        if need.memory_terms and not plan.sharing:
            _say(f"{need.stage.title}: {_breakdown(need.memory_terms)}", console)
        if need.suggestion:
            of_variant = f" of {need.experiment}" if plan.sharing else ""
            _say(f"{need.stage.title}{of_variant} do not fit: {need.suggestion}", console, "red")
        if (held := need.host_memory_bytes) is not None:
            _say(
                f"{need.stage.title} hold {format_size(held)} in host memory: the features and embeddings of all splits; "
                "copies of parts of them come on top.",
                console,
            )


def _print_work(work: dict[StageSpec, Work], console: Console) -> None:
    if not work:
        _say("No work is left to run in the stages whose work is counted.", console)
        return
    table = _table("Work left to run", "stage", "units", "PFLOP", "GPU-hours", "core-hours", "writes, GiB")
    for stage, one in work.items():
        table.add_row(stage.title, *_figures(one))
    total = sum(work.values(), Work())
    if len(work) > 1:
        table.add_section()
        table.add_row("all", *_figures(total))
    console.print(table)
    # An A100 has 19.5 TFLOP/s without TF32, and torch computes matrix products in fp32 without it (docs/gpu.md).
    less = " (in fp32, a vision transformer has less than 20 on an A100)" if total.gpu_hours else ""
    _say(
        f"At a sustained {GPU_SUSTAINED / 1e12:g} TFLOP/s per GPU{less} and {CORE_SUSTAINED / 1e9:g} GFLOP/s per core; the "
        "time for decoding, uploads and waiting is not included.",
        console,
    )


def _figures(work: Work) -> list[str]:
    """The cells of a row: `?` if no unit's figures are known, `> 1.20` if only those of some units are."""
    sums = [work.flops / PFLOP, work.gpu_hours, work.core_hours]
    if work.unknown == work.units:
        figures = ["?"] * 3
    else:
        figures = [f"> {_number(figure)}" if work.unknown else _number(figure) for figure in sums]
    return [str(work.units), *figures, _number(work.writes / GIB)]


def _number(figure: float) -> str:
    return "<0.01" if 0 < figure < 0.005 else f"{figure:,.2f}" if figure else "0"


def _peak(need: Need) -> str:
    """`> 1.2 GiB` for a lower bound."""
    assert need.memory_terms is not None
    return f"{'> ' if need.is_lower_bound else ''}{format_size(peak(need.memory_terms))}"


def _limit(need: Need) -> str:
    """The GPU's memory, and whether the peak fits. The limit does not include `RESERVED`."""
    said = {True: "fits", False: "too small", None: "?"}[fits(need)]
    return "-" if need.memory_limit_bytes is None else f"{format_size(need.memory_limit_bytes + RESERVED)}: {said}"


def _breakdown(terms: Terms) -> str:
    """The parts of a peak, largest first."""
    named = sorted(((size, name) for name, size in terms.items() if size >= WORTH_NAMING * peak(terms)), reverse=True)
    return ", ".join(f"{name} {format_size(size)}" for size, name in named)


def _traffic(moved: Traffic, measured: bool) -> tuple[str, str]:
    """The bytes read and the bytes written, as text. `~` marks an estimate of the data set's size."""
    if moved.data is None:
        reads = f"{format_size(moved.reads)} + data"
    else:
        reads = ("" if measured else "~") + format_size(moved.reads + moved.data)
    return reads, format_size(moved.writes)


def format_size(size: int) -> str:
    """A number of bytes as text."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,}"
