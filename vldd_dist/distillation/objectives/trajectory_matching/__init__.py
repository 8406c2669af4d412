"""Trajectory matching: a student trained on the pairs for a few steps is to end where an expert ended (Cazenavette et al.
2203.11932; Wu et al. 2308.07545, 3.3)."""

from vldd_dist.distillation.objectives.trajectory_matching.objective import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.problem import MatchingProblem

__all__ = ["MatchingProblem", "TrajectoryMatching"]
