"""All kinds of bad input."""

# Each module registers its kinds when it is imported.
from vldd_dist.testing.bad_input.case import KINDS
from vldd_dist.testing.bad_input.cases import (  # noqa: F401
    command_lines,
    descriptions,
    distilled_sets,
    karpathy,
    stores,
    studies,
    tars,
)

__all__ = ["KINDS"]
