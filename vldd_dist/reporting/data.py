"""The data of a report: plain values that tables, plots and the page are made of."""

import io
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from vldd_dist.recall_metrics import DISPLAY_NAMES, METRICS

# Students trained on all pairs, and on distilled ones; every other method is a coreset.
FULL, DISTILLED = "full", "distilled"


def metric_name(metric: str) -> str:
    """What a table calls a metric."""
    return {str(name): shown for name, shown in DISPLAY_NAMES.items()}.get(metric, metric.replace("_", " "))


def display_name(method: str) -> str:
    """What a table or plot calls a method."""
    return "full data" if method == FULL else method.replace("_", "-")


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stat(_Value):
    """Mean and population standard deviation of a recall over runs, in percent."""

    mean: float
    std: float


class Row(_Value):
    """Test recall of the students trained on sets of one method and size."""

    method: str
    pairs: int
    image_model: str | None = Field(None, description="The student's image tower in a cross-architecture row, else None.")
    metrics: dict[str, Stat] = Field(description="The recalls and their mean, then further metrics.")
    runs: int = Field(gt=0, description="Number of evaluated students.")


class ExpertCurve(_Value):
    """Training of an expert: mean validation recall in percent at each of `epochs`, loss of each trained epoch."""

    expert: int
    epochs: list[int]
    validation_mean: list[float]
    loss: list[float]


class DistillationCurve(_Value):
    """A distillation run: the outer loss and what is learned beside the pairs at each outer step, validation now and then."""

    pairs: int
    seed: int
    loss: list[float]
    terms: dict[str, list[float]] = Field(description="Of the loss, by name.")
    validation: list[tuple[int, float]] = Field(description="(outer step, mean validation recall in percent).")
    learned: dict[str, list[float]] = Field(description="Such as the inner learning rates, by name, after each outer step.")


class GalleryItem(_Value):
    """One synthetic pair before and after distillation; texts are shown as their nearest training captions."""

    before_png: bytes | None = Field(description="None if the start was not stored.")
    after_png: bytes
    caption_before: str
    caption_after: str
    similarity: float = Field(description="Cosine between the distilled text and `caption_after`.")


class Gallery(_Value):
    """Some pairs of one distilled set."""

    pairs: int
    seed: int
    items: list[GalleryItem]


class Stage(_Value):
    """Units of one kind."""

    name: str
    done: int
    failed: int
    total: int = Field(gt=0)


class Progress(_Value):
    """Progress of a run."""

    state: Literal["running", "done", "failed", "stopped"]
    written_at: str = Field(description="For display, with the time zone.")
    stages: list[Stage]
    running: list[tuple[str, str]] = Field(description="(label of the unit, its progress in words).")
    time_left: str
    notices: list[str] = Field(description="The latest retries and failures.")


class ReportData(_Value):
    """Everything a report shows."""

    name: str
    description: dict[str, str] = Field(description="What the experiment is: name -> value, both for display.")
    rows: list[Row]
    experts: list[ExpertCurve]
    runs: list[DistillationCurve]
    galleries: list[Gallery]
    failures: list[tuple[str, str]] = Field(description="(label of the unit, cause).")
    store: str = Field(description="URL of the experiment's store.")
    distilled_sets: list[tuple[str, str]] = Field(description="(URL, sha256) of each distilled set published.")
    progress: Progress | None = None


def aggregate(recalls: list[dict[str, float]]) -> dict[str, Stat]:
    """Mean and population standard deviation (divisor n, as in published results on this task) of each metric over runs: of
    the recalls and their mean, and of further metrics that every run has.

    Raises:
        ValueError: there is no run to aggregate.
    """
    if not recalls:
        raise ValueError("no recalls to aggregate")
    further = [metric for metric in recalls[0] if metric not in METRICS and all(metric in recall for recall in recalls)]
    values = {metric: np.array([recall[metric] for recall in recalls]) for metric in (*METRICS, *further)}
    return {metric: Stat(mean=float(of_runs.mean()), std=float(of_runs.std())) for metric, of_runs in values.items()}


def png_bytes(image: Any) -> bytes:
    """Encode an image as PNG.

    Args:
        image: a tensor or array (3, H, W), uint8, or floating point in 0..1 (learned pixels outside are clipped).
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        pixels = (pixels.clip(0.0, 1.0) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, format="PNG")
    return file.getvalue()
