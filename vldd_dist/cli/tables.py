"""The command that prints the tables of reports."""

from typing import Annotated, Literal

import typer

from vldd_dist.cli.console import SafeConsole, say
from vldd_dist.cli.options import ListedStore
from vldd_dist.errors import ConfigError, StoreError

Format = Literal["terminal", "markdown", "latex", "csv"]


def table(
    store: ListedStore,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of the experiment, where the store has several.")
    ] = None,
    only: Annotated[str | None, typer.Option("--table", metavar="TABLE", help="Of a report with several tables: one.")] = None,
    form: Annotated[Format, typer.Option("--as", help="latex needs the package booktabs; csv has all numbers.")] = "terminal",
) -> None:
    """Print the tables of a report in a store, from any machine that can read it."""
    from vldd_dist.monitoring.report_files import read_tables
    from vldd_dist.reporting.renderers.csv import csv_text
    from vldd_dist.reporting.renderers.latex import latex
    from vldd_dist.reporting.renderers.markdown import document
    from vldd_dist.reporting.renderers.terminal import TerminalTable
    from vldd_dist.store.store import Store

    tables = read_tables(Store(store), name)
    if not tables:
        raise StoreError(f"{store}: the report has no table yet: no student has been evaluated")
    if only is not None:
        if only not in tables:
            raise ConfigError(f"--table {only}: the report has the tables {', '.join(tables)}")
        tables = {only: tables[only]}
    if form == "csv" and len(tables) != 1:
        raise ConfigError(f"--as csv: the report has the tables {', '.join(tables)}: name one with --table")
    if form == "terminal":
        console = SafeConsole()
        for each in tables.values():
            console.print(TerminalTable(each))
    elif form == "markdown":
        say(document(list(tables.values())), newline=False)
    else:
        say("\n".join(map(csv_text if form == "csv" else latex, tables.values())), newline=False)
