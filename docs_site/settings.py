"""The reference of all settings of an experiment and of a study, generated from vldd_dist/config."""

import inspect
from collections.abc import Iterator

from docs_site.fields import fields_table
from vldd_dist.config.base import Resources, Section
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.study import Study, TableSettings

HEAD = """# Settings

Every key of a description, with what it takes, its default and what it is. `vldd config CONFIG` prints all of them with their
values; `--set KEY=VALUE` changes one, for example `--set distill.outer_steps=500`. An unknown key is refused.

A key marked *does not change the output* may be changed between runs without anything being made again. The settings of a
source, a coreset, a loss, an objective and the other [plug-ins](plugins.md) belong to the plug-in.
"""


def settings_page() -> str:
    parts = [HEAD, *_sections(Experiment, ""), "## resources\n", "Wherever a section has the key `resources`.\n"]
    parts += [fields_table(Resources), "## Studies\n", "The keys of a [study](../studies.md).\n"]
    parts += [fields_table(Study), "### tables.NAME\n", fields_table(TableSettings)]
    return "\n".join(parts)


def _sections(section: type[Section], path: str) -> Iterator[str]:
    """A heading and a table of each section, those within it after it."""
    within = dict(_within(section))
    if path:
        level = "##" if "." not in path else "###"
        yield f"{level} {path}\n"
        yield f"{inspect.cleandoc(section.__doc__ or '')}\n"
    # A section that may be none, or a list of them, has a row too: what the key itself means.
    plain = {name for name, inner in within.items() if section.model_fields[name].annotation is inner}
    table = fields_table(section, leave_out=frozenset(plain))
    if table:
        yield table
    for name, inner in within.items():
        if inner is not Resources:
            yield from _sections(inner, f"{path}.{name}".strip("."))


def _within(section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Fields that are sections, also those that may be none or are lists of one."""
    for name, field in section.model_fields.items():
        todo = [field.annotation]
        while todo:
            annotation = todo.pop()
            if inspect.isclass(annotation) and issubclass(annotation, Section):
                yield name, annotation
                break
            todo += [argument for argument in getattr(annotation, "__args__", ()) if argument is not None]
