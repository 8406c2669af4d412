"""All keys of a description by their dotted names, for messages."""

import contextlib
from collections.abc import Iterator
from functools import cache
from inspect import isclass

from pydantic.fields import FieldInfo

from vldd_dist.config.base import Plugin, Section, types_in
from vldd_dist.config.experiment import Experiment
from vldd_dist.plugins import (
    APPLICATIONS,
    CORESETS,
    INITIALISATIONS,
    LOSSES,
    METRICS,
    OBJECTIVES,
    REGISTRIES,
    SOURCES,
    Registry,
)

# Key -> the plug-ins that it names.
REGISTRY_OF = {
    "data.source": SOURCES,
    "model.loss": LOSSES,
    "experts.loss": LOSSES,
    "distill.initialise": INITIALISATIONS,
    "distill.objective": OBJECTIVES,
    "coresets.methods": CORESETS,
    "evaluation.metrics": METRICS,
    "applications.run": APPLICATIONS,
}


@cache
def known_keys() -> dict[str, FieldInfo]:
    """Dotted key -> its field. The key of a plug-in has the settings of all plug-ins below it; positions in lists are left out."""
    return dict(_fields(Experiment, ""))


def dotted(location: tuple[str | int, ...]) -> str:
    """The key of a location in a description, without positions in lists."""
    return ".".join(part for part in location if isinstance(part, str))


def siblings(plugin: type[Section]) -> dict[str, type[Plugin]]:
    """Name -> class of all plug-ins in the registry of a plug-in, itself included; empty for another section."""
    for registry in REGISTRIES:
        classes = _classes(registry) if issubclass(plugin, Plugin) and registry in REGISTRY_OF.values() else {}
        if plugin in classes.values():
            return classes
    return {}


def _classes(registry: Registry) -> dict[str, type[Plugin]]:
    """Name -> class. Plug-ins that cannot be imported here, whatever the reason, are left out: the keys are only for messages."""
    classes = {}
    for name in registry:
        with contextlib.suppress(Exception):
            classes[name] = registry.load(name)
    return classes


def _fields(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        key = prefix + name
        yield key, field
        inner = [kind for kind in types_in(field.annotation) if isclass(kind) and issubclass(kind, Section)]
        if registry := REGISTRY_OF.get(key):
            inner += _classes(registry).values()
        for one in inner:
            yield from _fields(one, f"{key}.")
