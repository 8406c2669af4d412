"""The graph of a description."""

from vldd_dist.config.described import Described
from vldd_dist.config.experiment import Experiment
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph


def graph_of(described: Described) -> Graph | StudyGraph:
    """The graph of an experiment or of a study. Raises what `Graph` and `StudyGraph` raise."""
    return Graph(described) if isinstance(described, Experiment) else StudyGraph(described.experiments)
