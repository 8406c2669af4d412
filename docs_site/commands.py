"""The reference of the commands, as typer describes them."""

import typer
from typer.cli import get_docs_for_click

from vldd_dist.cli.main import app


def commands_page() -> str:
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="vldd")
    page = get_docs_for_click(obj=command, ctx=context, name="vldd", title="Commands")
    codes = "0 done, 2 a wrong description or command line, 3 interrupted and resumable, 4 data or store, 1 anything else."
    return f"{page}\n## Exit codes\n\n{codes}\n"
