"""Objectives, one file each: the functions of the synthetic pairs that a distillation minimises."""

from vldd_dist.distillation.objectives.base import Objective, OuterGradient, OuterProblem

__all__ = ["Objective", "OuterGradient", "OuterProblem"]
