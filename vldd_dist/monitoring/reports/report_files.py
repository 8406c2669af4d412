"""The files of reports. A store may contain several experiments, and each has its own report. That of the experiment NAME:

report/NAME/tables.json     its tables, as `reporting.tables.table.Table`
report/NAME/table.md        the same in Markdown
report/NAME/index.html      the page
report/NAME/summary.json    the rows of the recall table
report/NAME/recall.svg      plot of recall, if pairs are distilled
report/NAME/pairs/          pages with the first 1,000 pairs of each distilled set that has more than the page shows
report/NAME/description.json the description of the experiment, from which `vldd report` writes the report again
"""

import json

from pydantic import ValidationError

from vldd_dist import strict_json
from vldd_dist.errors import ConfigError, StoreError
from vldd_dist.reporting.tables.renderers.markdown import document
from vldd_dist.reporting.tables.table import Table
from vldd_dist.store.store import Store
from vldd_dist.strict_model import StrictModel, first_error

FOLDER = "report"
TABLES, MARKDOWN, PAGE, CHART, DESCRIPTION = "tables.json", "table.md", "index.html", "recall.svg", "description.json"


class _File(StrictModel):
    """`tables.json`."""

    tables: dict[str, Table]


def key_of(name: str, file: str) -> str:
    """The key in the store of a file of the report of the experiment with this name."""
    return f"{FOLDER}/{name}/{file}"


def write_tables(store: Store, name: str, tables: dict[str, Table]) -> None:
    """Write the tables (by name) of the report of the experiment `name`. Raises StoreError."""
    tree = {"tables": {key: table.model_dump(mode="json") for key, table in tables.items()}}
    store.write(key_of(name, TABLES), (json.dumps(tree, indent=1) + "\n").encode())
    store.write(key_of(name, MARKDOWN), document(list(tables.values())).encode())


def report_names(store: Store, file: str = TABLES) -> list[str]:
    """Names of the experiments whose report in the store has this file. Raises StoreError."""
    return sorted(key.split("/")[1] for key in store.keys(FOLDER) if key.count("/") == 2 and key.endswith(f"/{file}"))


def report_name(store: Store, name: str | None, file: str = TABLES) -> str:
    """`name` if its report has the file; if `name` is None, the only experiment whose report has it.

    Raises:
        StoreError: there is no report.
        ConfigError: there are several and none is named, or there is none with this name.
    """
    names = report_names(store, file)
    if not names:
        raise StoreError(f"{store.url}: no report is in this store: run an experiment with --store {store.url} first")
    if name is None and len(names) > 1:
        raise ConfigError(f"{store.url} has the reports of {', '.join(names)}: name one of them after the store")
    if name is not None and name not in names:
        raise ConfigError(f"{store.url} has no report of {name}: it has {', '.join(names)}")
    return name or names[0]


def read_tables(store: Store, name: str | None) -> dict[str, Table]:
    """The tables of a report, by name.

    Args:
        name: of the experiment; may be None if the store has only one report.

    Raises:
        StoreError: there is no report, or it is damaged.
        ConfigError: there are several and none is named, or there is none with this name.
    """
    key = key_of(report_name(store, name), TABLES)
    try:
        return _File.model_validate(strict_json.parse(store.read(key))).tables
    except ValueError as error:
        reason = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise StoreError(f"{store.url_of(key)}: {reason}: run the experiment again to have it rewritten") from None
