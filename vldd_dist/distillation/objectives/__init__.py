"""Objectives, one file each: the outer losses that the synthetic pairs are moved to lower."""

from vldd_dist.distillation.objectives.base import Objective, OuterGradient, OuterProblem

__all__ = ["Objective", "OuterGradient", "OuterProblem"]
