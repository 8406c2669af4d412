"""The reference page of the plug-ins: those of each registry, with their settings."""

import inspect
from importlib import import_module

from docs_site.fields import fields_table
from vldd_dist.config.base import Plugin
from vldd_dist.plugins import APPLICATIONS, CORESETS, GRADIENTS, INITIALISATIONS, LOSSES, METRICS, OBJECTIVES, SOURCES, Registry

# Registry -> the keys that name one of its plug-ins.
KEYS = {
    SOURCES: "data.source",
    LOSSES: "model.loss, experts.loss",
    INITIALISATIONS: "distill.initialise",
    OBJECTIVES: "distill.objective",
    GRADIENTS: "distill.objective.gradient",
    CORESETS: "coresets.methods",
    METRICS: "evaluation.metrics",
    APPLICATIONS: "applications.run",
}
HEAD = """# Plug-ins

The value of a key that takes a plug-in is the plug-in's name, or a mapping with its name and settings: `random`,
`{name: table, path: pairs.csv}`. [Extending](../extending.md) explains how to add one.
"""


def plugins_page() -> str:
    return "\n".join([HEAD, *(part for registry, keys in KEYS.items() for part in _section(registry, keys))])


def _section(registry: Registry, keys: str) -> list[str]:
    title = registry.group.rpartition(".")[2].capitalize()
    parts = [f"## {title}\n", f"Named by {', '.join(f'`{key}`' for key in keys.split(', '))}.\n"]
    for name in registry.entries:
        plugin = registry.load(name)
        if inspect.isclass(plugin) and issubclass(plugin, Plugin):
            docstring, table = plugin.__doc__, fields_table(plugin, leave_out=frozenset({"name"}))
        else:
            docstring, table = import_module(registry.entries[name].partition(":")[0]).__doc__, ""
        first, *_ = inspect.cleandoc(docstring or "").split("\n\n")
        parts += [f"### {name}\n", f"{first}\n", table]
    return parts
