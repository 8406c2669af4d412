"""Random augmentation of real images while an expert is trained: crop, mirror, RandAugment (Cubuk et al. 1909.13719).

The operations, their ranges and their probability are those used for image-text retrieval since BLIP (Li et al. 2201.12086).
Colour inversion and posterising are left out, because they would contradict captions.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from vldd_dist.config.sections.experts import AugmentSettings

Operation = Callable[[Image.Image, float, float], Image.Image]

_LARGEST_SHEAR = 0.3
_LARGEST_SHIFT = 10 / 224  # Of the side.
_LARGEST_ANGLE = 30.0
# The colour of areas that lie outside the original image.
_GREY = (128, 128, 128)
# Probability that a drawn operation is applied.
_PROBABILITY = 0.5


def _affine(coefficients: Callable[[float, int], tuple[float, ...]]) -> Operation:
    def apply(image: Image.Image, level: float, sign: float) -> Image.Image:
        data = coefficients(level * sign, image.width)
        return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=_GREY)

    return apply


OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, level, sign: image,
    "auto_contrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "brightness": lambda image, level, sign: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * level),
    "sharpness": lambda image, level, sign: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * level),
    "shear_x": _affine(lambda level, side: (1, _LARGEST_SHEAR * level, 0, 0, 1, 0)),
    "shear_y": _affine(lambda level, side: (1, 0, 0, _LARGEST_SHEAR * level, 1, 0)),
    "translate_x": _affine(lambda level, side: (1, 0, _LARGEST_SHIFT * level * side, 0, 1, 0)),
    "translate_y": _affine(lambda level, side: (1, 0, 0, 0, 1, _LARGEST_SHIFT * level * side)),
    "rotate": lambda image, level, sign: image.rotate(
        sign * level * _LARGEST_ANGLE, Image.Resampling.BILINEAR, fillcolor=_GREY
    ),
}


def augment(image: Image.Image, settings: AugmentSettings, generator: np.random.Generator) -> Image.Image:
    """An augmented image of the same size. All random draws come from `generator`."""
    image = _random_resized_crop(image, settings.crop_scale, generator)
    if settings.flip and generator.random() < 0.5:
        image = ImageOps.mirror(image)
    level = settings.randaugment_magnitude / 10
    for name in generator.choice(list(OPERATIONS), settings.randaugment_ops):
        applied = generator.random() < _PROBABILITY
        sign = 1.0 if generator.random() < 0.5 else -1.0
        if applied:
            image = OPERATIONS[name](image, level, sign)
    return image


def _random_resized_crop(image: Image.Image, scale: tuple[float, float], generator: np.random.Generator) -> Image.Image:
    area = image.width * image.height * generator.uniform(*scale)
    ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, float(np.sqrt(area * ratio)))
    height = min(image.height, float(np.sqrt(area / ratio)))
    left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
