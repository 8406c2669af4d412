"""Objectives, one file each: the functions of the synthetic pairs that a distillation minimises."""

from vldd_dist.distillation.objectives.base import Objective
from vldd_dist.distillation.objectives.outer_problem import OuterGradient, OuterProblem

__all__ = ["Objective", "OuterGradient", "OuterProblem"]
