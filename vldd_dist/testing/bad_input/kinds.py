"""All kinds of bad input."""

# Each module registers its kinds when it is imported.
from vldd_dist.testing.bad_input import command_lines, descriptions, distilled_sets, karpathy, stores, studies, tars  # noqa: F401
from vldd_dist.testing.bad_input.case import KINDS

__all__ = ["KINDS"]
