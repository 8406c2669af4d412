"""What a report is made of: plain values, gathered by the caller, that tables, plots and the page turn into a view."""

import io
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from vldd_dist.recall_metrics import METRICS, Metric

Method = Literal["full", "random", "herding", "k_center", "forgetting", "distilled"]
# In the order of rows within a budget.
METHODS: tuple[Method, ...] = get_args(Method)


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stat(_Value):
    """Mean and population standard deviation of a recall over runs, in percent."""

    mean: float
    std: float


class Row(_Value):
    """Test recall of the students trained on one kind of set of one size."""

    method: Method
    pairs: int
    image_model: str | None = Field(None, description="The student's image tower in a cross-architecture row, else none.")
    metrics: dict[Metric, Stat]
    runs: int = Field(gt=0, description="Evaluated students.")


class ExpertCurve(_Value):
    """An expert's training: validation at each snapshot of `epochs`, loss of each epoch trained."""

    expert: int
    epochs: list[int]
    validation_mean: list[float]
    loss: list[float]


class DistillationCurve(_Value):
    """A distillation run: matching losses and inner learning rates an outer step, validation now and then."""

    pairs: int
    seed: int
    loss: list[float]
    image_loss: list[float]
    text_loss: list[float]
    validation: list[tuple[int, float]] = Field(description="(outer step, mean validation recall in percent).")
    inner_rates: list[tuple[int, float, float]] = Field(description="(outer step, image rate, text rate).")


class GalleryItem(_Value):
    """One synthetic pair before and after distillation; texts are shown as their nearest training captions."""

    before_png: bytes | None = Field(description="None where the start was not kept.")
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
    """Where a run stands."""

    state: Literal["running", "done", "failed", "stopped"]
    written_at: str = Field(description="For people, with the time zone.")
    stages: list[Stage]
    running: list[tuple[str, str]] = Field(description="(label of the unit, how far it is).")
    time_left: str
    notices: list[str] = Field(description="The latest retries and failures.")


class ReportData(_Value):
    """Everything a report shows."""

    name: str
    description: dict[str, str] = Field(description="Facts of the experiment: what -> value.")
    rows: list[Row]
    experts: list[ExpertCurve]
    runs: list[DistillationCurve]
    galleries: list[Gallery]
    failures: list[tuple[str, str]] = Field(description="(label of the unit, cause).")
    store: str = Field(description="URL of the experiment's store.")
    distilled_sets: list[tuple[str, str]] = Field(description="(URL, sha256) of each distilled set published.")
    progress: Progress | None = None


def aggregate(recalls: list[dict[str, float]]) -> dict[Metric, Stat]:
    """Mean and spread of each metric over runs.

    The spread is the population standard deviation (divisor n), as published results on this task report it; of one run
    it is 0.

    Raises:
        ValueError: there is no run to aggregate.
    """
    if not recalls:
        raise ValueError("no recalls to aggregate")
    values = {metric: np.array([recall[metric] for recall in recalls]) for metric in METRICS}
    return {metric: Stat(mean=float(of_runs.mean()), std=float(of_runs.std())) for metric, of_runs in values.items()}


def png_bytes(picture: Any) -> bytes:
    """Encode a picture as PNG.

    Args:
        picture: a tensor or array (3, H, W), either uint8 or floating point in 0..1; values outside are clipped, as
            learned pixels may leave the range.
    """
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        pixels = (pixels.clip(0.0, 1.0) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, format="PNG")
    return file.getvalue()
