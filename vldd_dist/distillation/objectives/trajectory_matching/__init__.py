"""Trajectory matching: a student that trains on the pairs for a few steps should reach the parameters that an expert reached by
training on real pairs (Cazenavette et al. 2203.11932; Wu et al. 2308.07545, section 3.3)."""

from vldd_dist.distillation.objectives.trajectory_matching.objective import TrajectoryMatching
from vldd_dist.distillation.objectives.trajectory_matching.problem import TrajectoryMatchingProblem

__all__ = ["TrajectoryMatching", "TrajectoryMatchingProblem"]
