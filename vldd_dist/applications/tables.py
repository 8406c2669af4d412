"""An application's results as a table."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import MappingProxyType

from vldd_dist.applications.base import Application, Figure
from vldd_dist.applications.result import Result
from vldd_dist.method_names import DISTILLED
from vldd_dist.reporting.tables.set_sizes import Sizes, are_equal, ratio_of, similarity_note
from vldd_dist.reporting.tables.table import Cell, Column, Statistic, Table, TableRow, TableSection, Text

SPREAD = "± is the population standard deviation over the evaluation's seeds."
# If there are several distilled sets.
SPREAD_OF_SETS = (
    "± is the population standard deviation over the evaluation's seeds and, in rows that depend on the distilled set, over "
    "the distillations too."
)


def apart_by_pairs(results: Iterable[tuple[int | None, Result]]) -> list[Result]:
    """The results, of which those of different numbers of pairs have different settings, so that they are not averaged.

    Args:
        results: each with the number of distilled pairs of its unit; None: it has none.
    """
    given, counts_of = list(results), defaultdict[tuple[str, str], set[int | None]](set)
    for count, result in given:
        counts_of[result.setting, result.method].add(count)
    mixed = {setting for (setting, _), counts in counts_of.items() if len(counts) > 1}
    return [
        result.model_copy(update={"setting": ", ".join(filter(None, (result.setting, f"{count} pairs")))})
        if result.setting in mixed
        else result
        for count, result in given
    ]


def merged(results: Sequence[Result]) -> list[Result]:
    """One result for each setting and method. There are several if there are several distillation seeds. Then it has the values
    of all or, if it does not depend on the distilled set, of the first: the others repeat it with the same seeds."""
    by_row: dict[tuple[str, str], Result] = {}
    for result in results:
        before = by_row.get((result.setting, result.method))
        if before and not result.of_set:
            continue
        earlier = before.figures if before else {}
        figures = {key: [*earlier.get(key, []), *values] for key, values in result.figures.items()}
        by_row[result.setting, result.method] = result.model_copy(update={"figures": figures})
    return [*by_row.values()]


def application_table(
    application: Application, experiment: str, results: Sequence[Result], sizes: Sizes = MappingProxyType({})
) -> Table:
    """The table, with a section for each setting in the order of the results. Its title has the settings that differ from their
    defaults, because the same application may run several times with other settings.

    Args:
        sizes: of the distilled sets, if a similarity is learned; if they are too large for it, no best value is marked.
    """
    rows, settings = merged(results), dict[str, list[Result]]()
    for result in rows:
        settings.setdefault(result.setting, []).append(result)
    ratios = [(f"at {pairs:,} pairs", ratio_of(DISTILLED, pairs, sizes)) for pairs in sorted(sizes)]
    marks = are_equal([1, *(ratio for _, ratio in ratios)])
    similarity = similarity_note(ratios, "So no best value is marked.")
    return Table(
        title=" ".join((f"{experiment}: {application.title}", *application.changed_settings())),
        columns=[
            Column(key="method", head="method"),
            *(Column(key=figure.key, head=figure.head, group=figure.group, figures=True) for figure in application.figures),
        ],
        sections=[
            TableSection(
                title=setting,
                rows=[
                    TableRow(
                        cells=[
                            Text(text=result.method.replace("_", "-")),
                            *(_cell(figure, result, compared, marks) for figure in application.figures),
                        ],
                        accent=result.method.startswith(DISTILLED),
                    )
                    for result in compared
                ],
            )
            for setting, compared in settings.items()
        ],
        notes=[*application.notes(), *similarity, *_spread_note(results, rows)],
    )


def _spread_note(results: Sequence[Result], rows: Sequence[Result]) -> list[str]:
    """The sentence that says over what ± is, if a row has one.

    Args:
        rows: the results, `merged`.
    """
    if all(len(values) < 2 for row in rows for values in row.figures.values()):
        return []
    are_several = len([result for result in results if result.of_set]) > len([row for row in rows if row.of_set])
    return [SPREAD_OF_SETS if are_several else SPREAD]


def _cell(figure: Figure, result: Result, compared: list[Result], marks: bool) -> Cell:
    if not (values := result.figures.get(figure.key)):
        return Text()
    judged = [other.figures[figure.key] for other in compared if not other.bound and other.figures.get(figure.key)]
    mean, means = statistics.mean(values), [statistics.mean(others) for others in judged]
    best = (
        marks
        and figure.better is not None
        and not result.bound
        and len(means) > 1
        and mean == {"higher": max, "lower": min}[figure.better](means)
    )
    spread = statistics.pstdev(values) if len(values) > 1 else None
    return Statistic(mean=mean, std_students=spread, decimals=figure.decimals, best=best)
