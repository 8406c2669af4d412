"""Commands for reports: write the page, print the tables, print published tables."""

from typing import Annotated, Literal

import typer

from vldd_dist.cli.console import SafeConsole, say
from vldd_dist.cli.options import ListedStore
from vldd_dist.control_characters import one_line
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.reporting.tables.table import Table

Format = Literal["terminal", "markdown", "latex", "csv"]
Form = Annotated[Format, typer.Option("--as", help="latex needs the package booktabs; csv has all numbers, unrounded.")]


def report(
    store: ListedStore,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The experiment, if the store has several.")] = None,
) -> None:
    """Write the report of what a store contains now, and print the URL of its page."""
    from vldd_dist.monitoring.reports.rewrite import rewrite_report
    from vldd_dist.store.store import Store

    say(one_line(rewrite_report(Store(store), name)))


def table(
    store: ListedStore,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The experiment, if the store has several.")] = None,
    only: Annotated[str | None, typer.Option("--table", metavar="TABLE", help="Print only this table of the report.")] = None,
    form: Form = "terminal",
) -> None:
    """Print the tables of a report in a store, from any machine that can read it."""
    from vldd_dist.monitoring.reports.report_files import read_tables
    from vldd_dist.store.store import Store

    tables = read_tables(Store(store), name)
    if not tables:
        raise StoreError(f"{store}: the report has no table yet, because no student has been evaluated")
    if only is not None:
        if only not in tables:
            raise ConfigError(f"--table {only}: there is no such table: the report has {', '.join(tables)}")
        tables = {only: tables[only]}
    if form == "csv" and len(tables) != 1:
        raise ConfigError(f"--as csv: prints one table, and the report has {', '.join(tables)}: name one with --table")
    _print(list(tables.values()), form)


def published(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The table to print.")] = None, form: Form = "terminal"
) -> None:
    """List the tables of papers, or print one."""
    from vldd_dist.reporting.tables.published import published_table, published_tables

    if name is None:
        for key, source in published_tables().items():
            say(f"{key}: {source.title}. {source.source}")
        return
    try:
        table = published_table(name).table()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    _print([table], form)


def _print(tables: list[Table], form: Format) -> None:
    from vldd_dist.reporting.tables.renderers.csv import csv_text
    from vldd_dist.reporting.tables.renderers.latex import latex
    from vldd_dist.reporting.tables.renderers.markdown import document
    from vldd_dist.reporting.tables.renderers.terminal import TerminalTable

    if form == "terminal":
        console = SafeConsole()
        for table in tables:
            console.print(TerminalTable(table))
    elif form == "markdown":
        say(document(tables), newline=False)
    else:
        say("\n".join(map(csv_text if form == "csv" else latex, tables)), newline=False)
