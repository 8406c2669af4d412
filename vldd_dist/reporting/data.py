"""The data of a report: plain values from which tables, plots and the page are made."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field

from vldd_dist.recall_metrics import DISPLAY_NAMES, RECALL_METRICS
from vldd_dist.strict_model import StrictModel


def metric_name(metric: str) -> str:
    """The name of a metric in tables."""
    display_names = {str(name): shown for name, shown in DISPLAY_NAMES.items()}
    return display_names.get(metric, metric.replace("_", " "))


class Stat(StrictModel):
    """Statistics of a metric over the students of one row. Recalls and their mean are in percent. Standard deviations are those
    of the population (divisor n), as in published results on this task."""

    mean: float = Field(description="Mean over runs of the mean over each run's students.")
    std_runs: float | None = Field(
        description="Standard deviation over runs of the mean over each run's students; None for a single run."
    )
    std_students: float | None = Field(
        description="Standard deviation over the students of a run, averaged over the runs with several; None if there is none."
    )

    @property
    def spread(self) -> float | None:
        """The standard deviation that is shown: over runs if there are several, else over students."""
        return self.std_students if self.std_runs is None else self.std_runs


class Row(StrictModel):
    """Test recall of the students trained on sets of one method and size.

    A run is an expert for full data, a selection for a coreset, and a distillation for distilled pairs.
    """

    method: str
    pairs: int
    image_model: str | None = Field(None, description="The students' image tower in a cross-architecture row, else None.")
    metrics: dict[str, Stat] = Field(description="The recalls and their mean, then further metrics.")
    runs: int = Field(gt=0, description="Number of runs that have an evaluated student.")
    students: int = Field(gt=0, description="Number of evaluated students of all runs.")
    planned: int = Field(gt=0, description="Number of students that the experiment plans for this row.")
    averages: bool = Field(False, description="Whether the pairs are means of real ones, neither real nor distilled.")
    selections: int | None = Field(None, description="Number of different selections; None if no two are of the same images.")


class MeasuredSplit(StrictModel):
    """A split on which recall is measured."""

    images: int
    captions: int
    content: str = Field("", description="Equal for splits with equal images and captions; empty where none are compared.")


class MissingRow(StrictModel):
    """A row that the experiment plans, and of which no student is evaluated."""

    students: ClassVar[int] = 0
    method: str
    pairs: int | None = Field(description="None for full data whose size is not known.")
    image_model: str | None = Field(None, description="As in `Row`.")
    planned: int = Field(gt=0, description="Number of students that the experiment plans for this row.")


class ValidationRecall(StrictModel):
    """Mean validation recall in percent of the students of one coreset method and size, at the learning rates chosen by it."""

    method: str
    pairs: int
    mean: float


class ExpertCurve(StrictModel):
    """Training of an expert: mean validation recall in percent at each of `epochs`, and the loss of each trained epoch."""

    expert: int
    epochs: list[int]
    validation_mean: list[float]
    loss: list[float]


class DistillationCurve(StrictModel):
    """A distillation, or a phase of one: the outer loss at each outer step, the validation recalls, and what is learned besides
    the pairs."""

    # The last outer step may have made a learned number infinite.
    model_config = ConfigDict(allow_inf_nan=True)

    pairs: int
    seed: int
    phase: str = Field("", description='Which of the phases it is, as "phase 2 of 3"; "" without phases.')
    loss: list[float]
    terms: dict[str, list[float]] = Field(description="The terms of the loss at each outer step, by name.")
    validation: list[tuple[int, float]] = Field(description="(outer step, mean validation recall in percent).")
    learned: dict[str, list[float]] = Field(
        description="Learned numbers besides the pairs, such as inner learning rates, after each outer step, by name."
    )

    @property
    def name(self) -> str:
        """Distinguishes it from others with the same number of pairs."""
        return ", ".join(filter(None, [f"seed {self.seed}", self.phase]))


class GalleryItem(StrictModel):
    """One synthetic pair before and after distillation; texts are shown as their nearest training captions."""

    before: bytes | None = Field(description="The starting image, PNG or JPEG; None if it was not stored.")
    after: bytes = Field(description="The distilled image, PNG or JPEG.")
    caption_before: str
    caption_after: str
    similarity: float = Field(description="Cosine between the distilled text and `caption_after`.")


class Gallery(StrictModel):
    """Some pairs of one distilled set."""

    pairs: int
    seed: int
    first: int = Field(0, description="Index of the first item among the set's pairs.")
    items: list[GalleryItem]
    pages: list[tuple[str, str]] = Field(
        [], description="(title, path from the report's folder) of each page, if there are pages with more pairs."
    )
    on_pages: int = Field(0, description="Number of pairs on these pages, the first ones of the set.")
    similarity_png: bytes | None = Field(
        None, description="The learned similarity of images (rows) and texts (columns), if the loss learned one."
    )
    similarity_shown: int | None = Field(
        None, description="Number of pairs, the first ones of the set, whose similarity is drawn; None: all."
    )


class PublishedSet(StrictModel):
    """A distilled set in the store."""

    url: str
    digest: str = Field(description="sha256, which `vldd verify` compares.")
    folder: str = Field(description="Its key in the store.")
    files: list[str] = Field(description="Paths in the folder of files that readers of the report may want.")


class StageCost(StrictModel):
    """The run times of the committed units of a kind."""

    name: str
    seconds: float = Field(description="Sum over units of the wall time of the attempt that committed the unit.")
    core_seconds: float = Field(description="The same, times the CPU cores that each unit asked for.")
    gpu_seconds: float = Field(description="The same, times the GPUs that each unit asked for.")
    untimed: int = Field(description="Number of units whose manifest has no time; they are not in the sums.")
    units: list[tuple[str, str]] = Field(description="(label, key of the manifest in the store).")


class Stage(StrictModel):
    """Units of one kind."""

    name: str
    done: int
    failed: int
    total: int = Field(gt=0)


class RunProgress(StrictModel):
    """Progress of a run."""

    state: Literal["running", "done", "failed", "stopped"]
    written_at: str = Field(description="For display, with the time zone.")
    stages: list[Stage]
    running: list[tuple[str, str]] = Field(description="(label of the unit, its progress in words).")
    time_left: str
    notices: list[str] = Field(description="The latest retries and failures.")


class ReportData(StrictModel):
    """Everything that a report shows."""

    name: str
    description: dict[str, str] = Field(description="The main settings of the experiment: name -> value, both for display.")
    rows: list[Row]
    missing: list[MissingRow] = Field([], description="The rows that have no student.")
    test_split: MeasuredSplit | None = Field(None, description="None if the data are not prepared.")
    similarity_sizes: dict[int, tuple[int, int]] = Field(
        {},
        description="Number of pairs -> (bytes of a distilled set, bytes of as many real pairs), if a similarity is learned.",
    )
    validation: list[ValidationRecall] = Field([], description="Of coresets, on the experiment's own image tower.")
    experts: list[ExpertCurve]
    distillations: list[DistillationCurve]
    galleries: list[Gallery]
    galleries_left_out: int = Field(0, ge=0, description="Number of further distilled sets.")
    failures: list[tuple[str, str]] = Field(description="(label of the unit, cause).")
    store: str = Field(description="URL of the experiment's store.")
    distilled_sets: list[PublishedSet]
    damaged_sets: list[str] = Field([], description="A sentence for each of them that is missing or damaged.")
    costs: list[StageCost] = Field([], description="One for each kind of which a unit is committed.")
    files: list[str] = Field(["tables.json", "table.md"], description="Files beside the page to which it links.")
    progress: RunProgress | None = None


def aggregate(
    method: str,
    pairs: int,
    runs: list[list[dict[str, float]]],
    image_model: str | None = None,
    averages: bool = False,
    planned: int | None = None,
    selections: int | None = None,
) -> Row:
    """The row of a method and size.

    Args:
        planned: the number of students that the experiment plans; None: those that are given.
        selections: as in `Row`.
        runs: for each run, its students; for each student, the recalls, their mean and further metrics. The row has the
            recalls, their mean, and those further metrics that every student has.

    Raises:
        ValueError: there is no run, or a run has no student.
    """
    if not runs or not all(runs):
        raise ValueError(f"{method}, {pairs} pairs: no recalls to aggregate")
    students = [student for run in runs for student in run]
    further = [name for name in students[0] if name not in RECALL_METRICS and all(name in student for student in students)]
    return Row(
        method=method,
        pairs=pairs,
        image_model=image_model,
        metrics={name: _stat([[student[name] for student in run] for run in runs]) for name in (*RECALL_METRICS, *further)},
        runs=len(runs),
        students=len(students),
        planned=planned or len(students),
        averages=averages,
        selections=selections,
    )


def _stat(runs: list[list[float]]) -> Stat:
    means = [np.mean(run) for run in runs]
    within = [np.std(run) for run in runs if len(run) > 1]
    return Stat(
        mean=float(np.mean(means)),
        std_runs=float(np.std(means)) if len(runs) > 1 else None,
        std_students=float(np.mean(within)) if within else None,
    )
