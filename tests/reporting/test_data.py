import io

import numpy as np
import pytest
from PIL import Image

from vldd_dist.recall_metrics import RECALL_METRICS
from vldd_dist.reporting.data import aggregate
from vldd_dist.reporting.pages.pictures import encode_picture


def recalls(values: np.ndarray) -> list[list[dict[str, float]]]:
    """The recalls of an array (runs, students, metrics), in the form that `aggregate` accepts."""
    return [[dict(zip(RECALL_METRICS, student, strict=True)) for student in run] for run in values.tolist()]


def test_both_spreads_are_numpys_population_deviations():
    values = np.random.default_rng(0).uniform(0, 100, (3, 5, len(RECALL_METRICS)))
    row = aggregate("distilled", 10, recalls(values))
    stats = [row.metrics[metric] for metric in RECALL_METRICS]
    np.testing.assert_allclose([stat.mean for stat in stats], values.mean(axis=(0, 1)))
    np.testing.assert_allclose([stat.std_runs for stat in stats], values.mean(axis=1).std(axis=0))
    np.testing.assert_allclose([stat.std_students for stat in stats], values.std(axis=1).mean(axis=0))
    assert (row.runs, row.students) == (3, 15)


def test_one_run_has_no_spread_over_runs_and_one_student_none_over_students():
    values = np.random.default_rng(0).uniform(0, 100, (4, len(RECALL_METRICS)))
    one_run = aggregate("distilled", 10, recalls(values[None])).metrics["tr1"]
    assert (one_run.std_runs, one_run.std_students) == (None, pytest.approx(values[:, 0].std()))
    one_student_each = aggregate("random", 10, recalls(values[:, None])).metrics["tr1"]
    assert (one_student_each.std_runs, one_student_each.std_students) == (pytest.approx(values[:, 0].std()), None)
    only = aggregate("random", 10, recalls(values[None, :1])).metrics["tr1"]
    assert (only.mean, only.std_runs, only.std_students) == (values[0, 0], None, None)


def test_a_run_whose_students_are_not_all_evaluated_weighs_as_much_as_another():
    """This happens while an experiment runs."""
    runs = [[dict.fromkeys(RECALL_METRICS, value) for value in run] for run in ([1, 3], [8])]
    stat = aggregate("distilled", 10, runs).metrics["tr1"]
    assert (stat.mean, stat.std_runs, stat.std_students) == (5, 3, 1)


def test_only_further_metrics_that_all_students_have_are_shown():
    first, second = (dict.fromkeys(RECALL_METRICS, 1.0) for _ in range(2))
    row = aggregate("random", 10, [[first | {"a": 1.0, "b": 2.0}], [second | {"b": 4.0}]])
    assert list(row.metrics) == [*RECALL_METRICS, "b"]


@pytest.mark.parametrize("runs", [[], [[dict.fromkeys(RECALL_METRICS, 1.0)], []]])
def test_no_student_is_an_error(runs):
    with pytest.raises(ValueError, match="random, 10 pairs: no recalls"):
        aggregate("random", 10, runs)


def test_png_holds_the_picture_whatever_its_type():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    for picture in (pixels, pixels / 255):
        decoded = np.asarray(Image.open(io.BytesIO(encode_picture(picture))))
        np.testing.assert_array_equal(decoded.transpose(2, 0, 1), pixels)


def test_pixels_outside_the_range_are_clipped():
    decoded = np.asarray(Image.open(io.BytesIO(encode_picture(np.array([-0.5, 0.0, 1.5]).reshape(3, 1, 1)))))
    assert decoded.tolist() == [[[0, 0, 255]]]
