"""The recall metrics: their names, order, display names and mean. This is the only module that lists them.

TRK is image-to-text recall at K (percent of images with one of their own captions among the first K), IRK is text-to-image
recall at K (percent of captions with their own image among the first K). `mean` is the mean of the six.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

RecallName = Literal["tr1", "tr5", "tr10", "ir1", "ir5", "ir10"]
RecallMetric = RecallName | Literal["mean"]

# In the order that every table and schema uses.
RECALLS: tuple[RecallName, ...] = get_args(RecallName)
RECALL_METRICS: tuple[RecallMetric, ...] = (*RECALLS, "mean")
# The ranks K at which both directions are measured.
RECALL_AT = tuple(int(name.removeprefix("tr")) for name in RECALLS if name.startswith("tr"))
DISPLAY_NAMES: dict[RecallMetric, str] = {name: f"{name[:2].upper()}@{name[2:]}" for name in RECALLS} | {"mean": "mean"}

# With fewer images than this, one image changes the recall of texts by more than a percentage point.
FEW_IMAGES = 100

AT_MOST = "at most "

# Keys of the other columns of a recall table.
OTHER_COLUMNS = ("pairs", "method", "of_full_data", "runs", "students")


def measured_on(images: int, captions: int) -> str:
    """The size of a test split in words."""
    return f"{images:,} image{'s' * (images != 1)} with {captions:,} caption{'s' * (captions != 1)}"


def coarseness(images: int, about: str = "", split: str = "test") -> str | None:
    """A sentence on what recall can be on this many images: the steps in which it changes, and the IR@K that is 100 % whatever
    the features, because there are no K wrong images. None if they are enough.

    Args:
        about: "about " if the number is an expected one, `AT_MOST` if it is a bound.
        split: the images' split, as it is to be called.
    """
    if not 0 < images < FEW_IMAGES:
        return None
    least = "at least " if about == AT_MOST else ""
    counted = f"{about}{images} {split} image{'s' * (images != 1)}"
    of_texts, of_images = (" and ".join(f"{task}@{k}" for k in RECALL_AT if images <= k) for task in ("TR", "IR"))
    always = f", and any student has 100 % in {of_images} (with one caption per image in {of_texts} too)" if of_images else ""
    return f"With {counted}, a student's TR@K changes in steps of {least}{100 / images:.1f} percentage points{always}."


def with_mean(percentages: Iterable[float]) -> dict[str, float]:
    """Metric -> percent, from the six recalls in the order of `RECALLS`."""
    values: dict[str, float] = dict(zip(RECALLS, percentages, strict=True))
    return values | {"mean": sum(values.values()) / len(values)}


def mean_over_runs(runs: Sequence[Mapping[str, float]], metric: RecallMetric) -> float:
    """Mean of one metric over runs (seeds).

    Raises:
        ZeroDivisionError: there is no run.
    """
    return sum(run[metric] for run in runs) / len(runs)
