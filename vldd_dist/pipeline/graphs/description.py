"""The graph of a description."""

from vldd_dist.config.experiment import Experiment
from vldd_dist.config.loading.load_study import LoadedStudy
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph


def graph_of(described: Experiment | LoadedStudy) -> Graph | StudyGraph:
    """The graph of an experiment or of a study. Raises what `Graph` and `StudyGraph` raise."""
    return StudyGraph(described.experiments) if isinstance(described, LoadedStudy) else Graph(described)
