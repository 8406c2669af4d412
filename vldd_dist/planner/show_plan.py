"""A plan as a person reads it. Nothing is cut off in a narrow terminal: names wrap, figures stay whole."""

from rich.console import Console
from rich.table import Table

from vldd_dist.cost_model.io_model import Traffic
from vldd_dist.cost_model.memory_model import GIB, RESERVED, Terms, peak
from vldd_dist.pipeline.stage import StageSpec
from vldd_dist.planner.plan import Plan
from vldd_dist.planner.work import CORE_SUSTAINED, GPU_SUSTAINED, Work

# Of a peak: what takes less is not named.
WORTH_NAMING = 0.02
PFLOP = 1e15


def print_plan(plan: Plan, console: Console) -> None:
    """Units, what one takes of memory and traffic, and the work and hours of all that is to run."""
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
            f"{plan.sharing.variants} variants; {plan.sharing.shared} of the {units} units are of more than one, and each is "
            f"made once: {plan.sharing.asked} units would run in stores of their own.",
            console,
        )
    _print_needs(plan, console)
    _print_work(plan.work, console)
    for note in plan.notes:
        _say(note, console)


def _table(title: str, *heads: str, names: int = 1) -> Table:
    """A table whose first columns hold names, which wrap; figures do not."""
    table = Table(title=title or None, title_justify="left")
    for number, head in enumerate(heads):
        is_name = number < names
        table.add_column(head, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    return table


def _say(sentence: str, console: Console, style: str = "") -> None:
    console.print(sentence, style=style, markup=False, highlight=False, soft_wrap=True)


def _print_units(plan: Plan, console: Console) -> None:
    # No title of the table, which would break a long URL into lines.
    _say(f"Plan of {plan.name} in {plan.store}", console, "bold")
    table = _table("", "stage", "units", "done", "to run", "workers", "CPUs", "GPUs")
    for one in plan.stages:
        figures = (one.units, one.done, one.units - one.done, one.workers, f"{one.cpus:g}", f"{one.gpus:g}")
        table.add_row(one.stage.title, *map(str, figures))
    console.print(table)
    _say("Workers of one unit; CPUs and GPUs of one worker.", console)


def _print_needs(plan: Plan, console: Console) -> None:
    of = ["of"] if plan.sharing else []
    title = "The largest unit of each stage" if plan.sharing else "What one unit takes"
    table = _table(title, "stage", *of, "peak a rank", "GPU memory", "reads", "writes", names=1 + len(of))
    for need in plan.needs:
        name = [need.experiment] if plan.sharing else []
        traffic = ("-", "-") if need.moved is None else _traffic(need.moved, need.measured)
        memory = ("?", "?") if need.terms is None else (format_size(peak(need.terms)), _fits(peak(need.terms), need.limit))
        table.add_row(need.stage.title, *name, *memory, *traffic)
    console.print(table)
    for need in plan.needs:
        if need.terms and not plan.sharing:
            _say(f"{need.stage.title}: {_breakdown(need.terms)}", console)
        if need.mend:
            of_variant = f" of {need.experiment}" if plan.sharing else ""
            _say(f"{need.stage.title}{of_variant} do not fit: {need.mend}", console, "red")


def _print_work(work: dict[StageSpec, Work], console: Console) -> None:
    if not work:
        _say("Nothing that is counted is left to run.", console)
        return
    table = _table("Work of what is to run", "stage", "units", "PFLOP", "GPU-hours", "core-hours", "writes, GiB")
    for stage, one in work.items():
        table.add_row(stage.title, *_figures(one))
    if len(work) > 1:
        table.add_section()
        table.add_row("all", *_figures(sum(work.values(), Work())))
    console.print(table)
    _say(
        f"At {GPU_SUSTAINED / 1e12:g} TFLOP/s a GPU and {CORE_SUSTAINED / 1e9:g} GFLOP/s a core, sustained; without decoding, "
        "uploads and waiting.",
        console,
    )


def _figures(work: Work) -> list[str]:
    """`?` where nothing is known; `> 1.20` where a part is."""
    known = [work.flops / PFLOP, work.gpu_hours, work.core_hours]
    if work.unknown == work.units:
        figures = ["?"] * 3
    else:
        figures = [f"> {_number(figure)}" if work.unknown else _number(figure) for figure in known]
    return [str(work.units), *figures, _number(work.writes / GIB)]


def _number(figure: float) -> str:
    return "<0.01" if 0 < figure < 0.005 else f"{figure:,.2f}" if figure else "0"


def _fits(most: int, limit: int | None) -> str:
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
