"""The content of augmented images: each operation compared with its expected result, flip and crop, and how often operations
are applied."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from vldd_dist.config.sections.experts import AugmentSettings
from vldd_dist.data import augment as module
from vldd_dist.data.augment import OPERATIONS, augment
from vldd_dist.seeding import numpy_generator

SIDE = 224
NOTHING = AugmentSettings(crop_scale=(1.0, 1.0), flip=False, randaugment_ops=0)
# Expected numbers out of 6,000 operations that are drawn in the test below.
APPLIED = 2931


def apply(name: str, levels: np.ndarray, level: float = 1.0, sign: float = 1.0) -> np.ndarray:
    """Apply an operation to grey values (H, W); returns the first channel as int."""
    image = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    return np.asarray(OPERATIONS[name](image, level, sign))[:, :, 0].astype(int)


def ramp(low: int, high: int) -> np.ndarray:
    return np.tile(np.linspace(low, high, SIDE).round(), (SIDE, 1))


def stripe(column: int) -> np.ndarray:
    """A black image with a white stripe of four columns."""
    levels = np.zeros((SIDE, SIDE))
    levels[:, column : column + 4] = 255
    return levels


def centre(levels: np.ndarray) -> np.ndarray:
    """The mean column of the white pixels in each row."""
    white = np.where(levels > 190, levels, 0).astype(float)
    return (white * np.arange(SIDE)).sum(1) / np.maximum(white.sum(1), 1)


def test_identity() -> None:
    assert np.array_equal(apply("identity", ramp(0, 255)), ramp(0, 255))


def test_auto_contrast_stretches_to_the_whole_range() -> None:
    stretched = apply("auto_contrast", ramp(50, 177))
    assert np.abs(stretched - (ramp(50, 177) - 50) * 255 / 127).max() <= 1


def test_equalize_makes_levels_equally_frequent() -> None:
    skewed = (ramp(0, 255) / 255) ** 3 * 255
    counts, _ = np.histogram(apply("equalize", skewed), 4, (0, 256))
    before, _ = np.histogram(skewed, 4, (0, 256))
    assert before.max() > 0.6 * SIDE**2
    assert counts.max() < 0.4 * SIDE**2


@pytest.mark.parametrize(("level", "factor"), [(0.0, 0.1), (0.5, 1.0), (1.0, 1.9)])
def test_brightness_multiplies(level: float, factor: float) -> None:
    assert np.abs(apply("brightness", ramp(0, 130), level) - ramp(0, 130) * factor).max() <= 1


def test_sharpness_blurs_below_the_middle_and_sharpens_above() -> None:
    edge = np.where(np.arange(SIDE) < SIDE // 2, 80, 160) * np.ones((SIDE, 1))
    assert np.array_equal(apply("sharpness", edge, 0.5), edge)
    steps = {level: np.abs(np.diff(apply("sharpness", edge, level)[SIDE // 2])).max() for level in (0.0, 1.0)}
    assert steps[0.0] < 80 < steps[1.0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shifts_are_ten_of_224_pixels_and_bring_in_grey(sign: float) -> None:
    for name, turn in (("translate_x", 0), ("translate_y", 1)):
        whole = np.rot90(apply(name, np.rot90(stripe(100), -turn), 1.0, sign), turn)
        half = np.rot90(apply(name, np.rot90(stripe(100), -turn), 0.5, sign), turn)
        assert np.abs(np.abs(centre(whole) - 101.5) - 10).max() < 0.01
        assert np.abs(np.abs(centre(half) - 101.5) - 5).max() < 0.01
        assert (centre(whole) < 101.5).all() == (centre(half) < 101.5).all()
        assert (np.concatenate([whole[:, :10], whole[:, -10:]]) == 128).any()
    assert np.sign(centre(apply("translate_x", stripe(100), 1.0, sign)) - 101.5).tolist() == [-sign] * SIDE


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shears_move_three_tenths_of_a_row_or_column(sign: float) -> None:
    moved = centre(apply("shear_x", stripe(110), 1.0, sign)) - 111.5
    slope = np.polyfit(np.arange(150), moved[:150], 1)[0]
    assert slope == pytest.approx(-0.3 * sign, abs=0.01)
    assert (apply("shear_x", np.zeros((SIDE, SIDE)), 1.0, sign) == 128).any()
    transposed = apply("shear_y", stripe(110).T, 1.0, sign).T
    assert np.polyfit(np.arange(150), centre(transposed)[:150], 1)[0] == pytest.approx(-0.3 * sign, abs=0.01)


@pytest.mark.parametrize(("level", "sign", "degrees"), [(1.0, 1.0, 30), (0.5, -1.0, -15)])
def test_rotation_in_degrees_counter_clockwise(level: float, sign: float, degrees: float) -> None:
    rotated = apply("rotate", stripe(110), level, sign)
    rows = np.arange(60, 165)
    slope = np.polyfit(rows, centre(rotated)[rows], 1)[0]
    assert np.degrees(np.arctan(slope)) == pytest.approx(degrees, abs=0.5)
    assert rotated[0, 0] == 128


def sample_image(seed: int = 0, side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def test_the_flip_mirrors_half_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    # Even a crop of the whole area changes the aspect ratio.
    monkeypatch.setattr(module, "_random_resized_crop", lambda image, scale, generator: image)
    plain, mirrored = np.asarray(sample_image()), np.asarray(sample_image())[:, ::-1]
    settings = NOTHING.model_copy(update={"flip": True})
    found = [np.asarray(augment(sample_image(), settings, numpy_generator(number))) for number in range(400)]
    flips = [np.array_equal(image, mirrored) for image in found]
    assert all(flip or np.array_equal(image, plain) for flip, image in zip(flips, found, strict=True))
    assert 160 < sum(flips) < 240
    assert all(np.array_equal(np.asarray(augment(sample_image(), NOTHING, numpy_generator(n))), plain) for n in range(20))


def test_the_crops_area_and_sides_are_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: list[tuple[float, float, float, float]] = []
    resize = Image.Image.resize

    def noting(self: Image.Image, size: tuple[int, int], resample: int, box: tuple[float, float, float, float]) -> Image.Image:
        boxes.append(box)
        return resize(self, size, resample, box)

    monkeypatch.setattr(Image.Image, "resize", noting)
    settings = NOTHING.model_copy(update={"crop_scale": (0.25, 0.5)})
    for number in range(300):
        assert augment(sample_image(side=100), settings, numpy_generator(number)).size == (100, 100)
    left, top, right, bottom = np.array(boxes).T
    areas, ratios = (right - left) * (bottom - top) / 100**2, (right - left) / (bottom - top)
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= 100
    assert 0.25 <= areas.min() < 0.27
    assert 0.48 < areas.max() <= 0.5
    assert 3 / 4 <= ratios.min() < 0.78
    assert 1.28 < ratios.max() <= 4 / 3
    assert left.max() > 30, "the crop lies anywhere"


def test_a_crop_shows_what_lies_in_it() -> None:
    """In an image whose pixel values are its column and row numbers, the corners of a crop are the corners of its box."""
    side = 200
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    image = Image.fromarray(np.stack([columns, rows, rows], 2).astype(np.uint8))
    cropped = np.asarray(augment(image, NOTHING.model_copy(update={"crop_scale": (0.3, 0.3)}), numpy_generator(1))).astype(
        float
    )
    width, height = cropped[100, -3, 0] - cropped[100, 2, 0], cropped[-3, 100, 1] - cropped[2, 100, 1]
    assert width * height == pytest.approx(0.3 * side**2, rel=0.1)
    assert np.abs(cropped[:, :, 1] - cropped[:, :, 2]).max() == 0
    assert (np.diff(cropped[100, :, 0]) >= 0).all()


def test_each_operation_that_is_drawn_is_applied_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[tuple[str, float, float]] = []

    def noting(name: str) -> module.Operation:
        def operation(image: Image.Image, level: float, sign: float) -> Image.Image:
            applied.append((name, level, sign))
            return image

        return operation

    monkeypatch.setattr(module, "OPERATIONS", {name: noting(name) for name in OPERATIONS})
    settings = NOTHING.model_copy(update={"randaugment_ops": 3, "randaugment_magnitude": 4})
    image = sample_image(side=4)
    of_an_image: Counter[int] = Counter()
    for number in range(2000):
        before = len(applied)
        augment(image, settings, numpy_generator(number))
        of_an_image[len(applied) - before] += 1
    assert len(applied) == APPLIED
    # Half of 6,000 draws, within four standard deviations; of three operations, 0 to 3 are applied with binomial probabilities.
    assert abs(len(applied) - 3000) < 4 * (6000 / 4) ** 0.5
    assert [of_an_image[number] for number in range(4)] == pytest.approx([250, 750, 750, 250], abs=100)
    counts = Counter(name for name, _, _ in applied)
    assert all(abs(counts[name] - 300) < 80 for name in OPERATIONS)
    assert {level for _, level, _ in applied} == {0.4}
    assert abs(sum(sign for _, _, sign in applied)) < 4 * len(applied) ** 0.5


def test_all_draws_are_the_generators() -> None:
    image, settings = sample_image(), AugmentSettings()
    runs = [np.asarray(augment(image, settings, numpy_generator("a", key))) for key in (1, 1, 2)]
    assert runs[0].shape == (24, 24, 3)
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
