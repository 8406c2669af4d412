"""The revisions of plug-ins, in the specs of units and in the code of this machine (docs/extending.md)."""

from collections.abc import Iterable, Iterator
from typing import Any

from vldd_dist.errors import ConfigError
from vldd_dist.pipeline.work_unit import WorkUnit
from vldd_dist.plugins import REGISTRIES


def revisions_in(spec: Any) -> Iterator[tuple[str, int]]:
    """Name and revision of each plug-in in a spec that has one."""
    if isinstance(spec, dict):
        name, revision = spec.get("name"), spec.get("revision")
        # The revision of a data set on the hub is a text.
        if isinstance(name, str) and isinstance(revision, int):
            yield name, revision
        spec = list(spec.values())
    if isinstance(spec, list):
        for part in spec:
            yield from revisions_in(part)


def revisions_here(name: str) -> tuple[set[int], list[Exception]]:
    """The revisions of the code of this machine's plug-ins with this name, of each kind: the defaults of the field. And why
    those of some kinds cannot be loaded, which a unit need not use."""
    here: set[int] = set()
    errors: list[Exception] = []
    for registry in REGISTRIES:
        if name in registry:
            # A library that does not fit another one raises anything when it is imported.
            try:
                field = getattr(registry.load(name), "model_fields", {}).get("revision")
            except Exception as error:
                errors.append(error)
            else:
                here |= {field.default} if field is not None and isinstance(field.default, int) else set()
    return here, errors


def said(revisions: set[int]) -> str:
    """The revisions, for a message."""
    return " or ".join(map(str, sorted(revisions))) or "none"


def check_revisions(units: Iterable[WorkUnit]) -> None:
    """Check that the plug-ins of a run have the revisions of their classes. The graph may have others: that of an earlier run,
    whose description has the revisions of that time, is made for its report.

    Raises:
        ConfigError: a description sets another one, so that every worker would refuse the unit, after its inputs were made.
    """
    for name, revision in sorted({found for unit in units for found in revisions_in(unit.spec)}):
        here, _ = revisions_here(name)
        if revision not in here:
            raise ConfigError(
                f"{name}.revision: the class has {said(here)}, and the description {revision}: leave `revision` out of the "
                "description"
            )
