"""The reporter of a description."""

from vldd_dist.config.described import Described
from vldd_dist.config.loading.descriptions import LoadedStudy
from vldd_dist.monitoring.live.live_report import ReportWriter
from vldd_dist.pipeline.graphs.experiment import Graph
from vldd_dist.pipeline.graphs.study import StudyGraph
from vldd_dist.store.store import Store


def reporter_of(described: Described, graph: Graph | StudyGraph, store: Store) -> ReportWriter:
    """The reporter of an experiment or of a study, whose graph is given.

    Raises:
        ConfigError: a table of the study names published figures that do not exist.
    """
    # Imported here, after the graph was made: the plotting libraries take seconds, and a bad description should fail at once.
    if isinstance(graph, StudyGraph):
        from vldd_dist.monitoring.reports.study_report import StudyReporter

        assert isinstance(described, LoadedStudy)
        return StudyReporter(described.study, graph, store)
    from vldd_dist.monitoring.reports.report import Reporter

    return Reporter(graph, store)
