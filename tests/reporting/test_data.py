import io

import numpy as np
import pytest
from PIL import Image

from vldd_dist.recall_metrics import METRICS
from vldd_dist.reporting.data import aggregate, png_bytes


def test_aggregate_is_numpys_mean_and_population_deviation():
    values = np.random.default_rng(0).uniform(0, 100, (5, len(METRICS)))
    aggregated = aggregate([dict(zip(METRICS, run, strict=True)) for run in values.tolist()])
    np.testing.assert_allclose([aggregated[metric].mean for metric in METRICS], values.mean(axis=0))
    np.testing.assert_allclose([aggregated[metric].std for metric in METRICS], values.std(axis=0))


def test_one_run_has_no_spread():
    assert aggregate([dict.fromkeys(METRICS, 12.5)])["tr1"].std == 0.0


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="no recalls"):
        aggregate([])


def test_png_holds_the_picture_whatever_its_type():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8)
    for picture in (pixels, pixels / 255):
        decoded = np.asarray(Image.open(io.BytesIO(png_bytes(picture))))
        np.testing.assert_array_equal(decoded.transpose(2, 0, 1), pixels)


def test_pixels_outside_the_range_are_clipped():
    decoded = np.asarray(Image.open(io.BytesIO(png_bytes(np.array([-0.5, 0.0, 1.5]).reshape(3, 1, 1)))))
    assert decoded.tolist() == [[[0, 0, 255]]]
