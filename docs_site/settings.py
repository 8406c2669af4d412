"""The reference page of all settings of an experiment and of a study, generated from vldd_dist/config."""

import inspect
from collections.abc import Iterator

from docs_site.fields import fields_table
from vldd_dist.config.base import Resources, Section
from vldd_dist.config.experiment import Experiment
from vldd_dist.config.study import Study, TableSettings

HEAD = """# Settings

All keys of a description, with the values that they accept, their defaults and their meaning. `vldd config CONFIG` prints the
values of all keys; `--set KEY=VALUE` changes one, for example `--set distill.outer_steps=500`. An unknown key is rejected.
`null` means that a key is not set. Where `none` is listed as a value, as in `sharding`, it is an ordinary value.

A key marked *does not change the output* can be changed between runs, and no unit has to run again. The settings of sources,
coresets, losses, objectives and other [plug-ins](plugins.md) are listed with the plug-ins.
"""


def settings_page() -> str:
    parts = [HEAD, *_sections(Experiment, ""), "## resources\n", "The keys of `resources`, in every section that has it.\n"]
    parts += [fields_table(Resources), "## Studies\n", "The keys of a [study](../studies.md).\n"]
    parts += [fields_table(Study), "### tables.NAME\n", fields_table(TableSettings)]
    return "\n".join(parts)


def _sections(section: type[Section], path: str) -> Iterator[str]:
    """The heading and table of a section, followed by those of the sections in it."""
    nested = dict(_nested_sections(section))
    if path:
        level = "##" if "." not in path else "###"
        yield f"{level} {path}\n"
        yield f"{inspect.cleandoc(section.__doc__ or '')}\n"
    # A key whose value may be null or a list of sections has a row as well, which describes the key itself.
    always_sections = {name for name, inner in nested.items() if section.model_fields[name].annotation is inner}
    table = fields_table(section, leave_out=frozenset(always_sections))
    if table:
        yield table
    for name, inner in nested.items():
        if inner is not Resources:
            yield from _sections(inner, f"{path}.{name}".strip("."))


def _nested_sections(section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    """Fields that hold a section, an optional section or a list of sections."""
    for name, field in section.model_fields.items():
        annotations = [field.annotation]
        while annotations:
            annotation = annotations.pop()
            if inspect.isclass(annotation) and issubclass(annotation, Section):
                yield name, annotation
                break
            annotations += [argument for argument in getattr(annotation, "__args__", ()) if argument is not None]
