"""The rows of a study of two image towers."""

from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.reporting.data import Row, aggregate


def row(method: str, pairs: int, *runs: tuple[float, ...], image_model: str | None = None) -> Row:
    """A row in which every recall of a run's students is the given number."""
    return aggregate(method, pairs, [[dict.fromkeys(RECALL_METRICS, value) for value in run] for run in runs], image_model)


RESULTS = {
    "nfnet": [
        row("full", 800, (40.0,), (44.0,)),
        row("random", 10, (5.0,), (7.0,)),
        row("random", 20, (9.0,), (9.0,)),
        row("distilled", 10, (20.0, 22.0)),
        row("distilled", 20, (30.0, 34.0), (31.0, 33.0)),
        row("distilled", 10, (8.0, 8.0), image_model="resnet"),
    ],
    "vit": [row("full", 800, (20.0,)), row("distilled", 10, (15.0, 17.0))],
}
