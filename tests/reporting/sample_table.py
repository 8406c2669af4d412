"""A small table with every kind of cell, and text that each format must escape."""

from vldd_dist.reporting.tables.table import Column, Number, Published, Statistic, Table, TableRow, TableSection, Text

HOSTILE = r"100% a_b & #1 {x} ^~ \ | [2] <b> $5 *bold* `code`"
PAPER = "Some & Others, arXiv 1234.56789v2, Table 3"


def table(**changes: object) -> Table:
    """A table with two sections of one titled group and one of another, a repeated label, a published figure and hostile
    text."""
    return Table(
        title="Recall_1",
        columns=[
            Column(key="pairs", head="pairs", once=True),
            Column(key="method", head="method"),
            Column(key="flickr_tr1", head="TR@1", group="Flickr30K", figures=True),
            Column(key="flickr_ir1", head="IR@1", group="Flickr30K", figures=True),
            Column(key="runs", head="runs", figures=True, detail=True),
        ],
        sections=[
            TableSection(title="ours", rows=[line(1000, "random", 4.04), line(1000, HOSTILE, 16.26, best=True)]),
            TableSection(title="ours", rows=[line(2000, "random", 5.0)]),
            TableSection(title="theirs", rows=[line(1000, "random", 4.0, PAPER)]),
        ],
        notes=["Percent & more."],
    ).model_copy(update=changes)


def line(pairs: int, method: str, mean: float, source: str = "", best: bool = False) -> TableRow:
    measured = Statistic(mean=mean, std_runs=0.25, std_students=1.5, best=best)
    first = Published(mean=mean, std=0.3, source=source) if source else measured
    return TableRow(cells=[Number(value=pairs), Text(text=method), first, Text(), Number(value=3)], accent=best)
