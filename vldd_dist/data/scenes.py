"""Built-in scenes: images of two coloured shapes with captions, generated from a seed, to try everything without a download."""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vldd_dist.seeding import numpy_generator

CAPTIONS = 5
# To be increased by any change of the images or captions for the same seed.
GENERATOR_VERSION = 1

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (250, 213, 30),
    "green": (56, 142, 60),
    "blue": (33, 90, 200),
    "purple": (126, 50, 160),
    "pink": (245, 130, 180),
    "brown": (121, 75, 45),
}
SIZES = {"large": 0.24, "small": 0.14}  # Half extent as a fraction of the image's side.
BACKGROUNDS = {"white": (245, 245, 240), "black": (25, 25, 30), "grey": (150, 155, 160), "beige": (226, 205, 165)}
RELATIONS = {"left of": "right of", "above": "below"}  # The relation of the first shape to the second, and its inverse.
ATTRIBUTE_NAMES = (*SHAPES, *COLOURS, *SIZES, *BACKGROUNDS, *RELATIONS)

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """One shape of a scene."""

    shape: str
    colour: str
    size: str

    @property
    def words(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """An image, its `CAPTIONS` captions, and its attributes.

    Attributes:
        image: RGB, size x size.
        attributes: those of `ATTRIBUTE_NAMES` that the scene has.
    """

    image: Image.Image
    captions: list[str]
    attributes: list[str]


def draw_scenes(count: int, seed: int, size: int, offset: int = 0) -> list[Scene]:
    """The scenes of a seed with the numbers offset to offset + count - 1, `size` x `size` pixels."""
    return [_draw_scene(numpy_generator(seed, "scene", offset + index), size) for index in range(count)]


def attribute_vector(scene: Scene) -> Tensor:
    """(len(ATTRIBUTE_NAMES),) float32: 1 where the attribute is present."""
    return torch.tensor([float(name in scene.attributes) for name in ATTRIBUTE_NAMES])


def _draw_scene(generator: np.random.Generator, size: int) -> Scene:
    def pick(options: tuple[str, ...]) -> str:
        return options[generator.integers(len(options))]

    first = Thing(pick(SHAPES), pick(tuple(COLOURS)), pick(tuple(SIZES)))
    second = first
    while (second.shape, second.colour) == (first.shape, first.colour):
        second = Thing(pick(SHAPES), pick(tuple(COLOURS)), pick(tuple(SIZES)))
    relation, background = pick(tuple(RELATIONS)), pick(tuple(BACKGROUNDS))
    jitter = generator.uniform(-0.04, 0.04, size=4)
    near, far, middle = 0.26, 0.74, 0.5
    centres = [(near, middle), (far, middle)] if relation == "left of" else [(middle, near), (middle, far)]
    side = size * _SUPERSAMPLING
    image = Image.new("RGB", (side, side), BACKGROUNDS[background])
    canvas = ImageDraw.Draw(image)
    for thing, (x, y), (dx, dy) in zip((first, second), centres, jitter.reshape(2, 2), strict=True):
        _draw_thing(canvas, thing, (x + dx) * side, (y + dy) * side, SIZES[thing.size] * side, BACKGROUNDS[background])
    return Scene(
        image.resize((size, size), Image.Resampling.LANCZOS),
        _captions(generator, first, second, relation, background),
        [first.shape, second.shape, first.colour, second.colour, first.size, second.size, background, relation],
    )


def _draw_thing(
    canvas: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float, background: tuple[int, int, int]
) -> None:
    colour = COLOURS[thing.colour]
    if thing.shape == "circle":
        canvas.ellipse((x - r, y - r, x + r, y + r), colour)
    elif thing.shape == "ring":
        canvas.ellipse((x - r, y - r, x + r, y + r), colour)
        canvas.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), background)
    elif thing.shape == "square":
        canvas.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), colour)
    elif thing.shape == "cross":
        canvas.rectangle((x - r, y - r / 3, x + r, y + r / 3), colour)
        canvas.rectangle((x - r / 3, y - r, x + r / 3, y + r), colour)
    elif thing.shape == "triangle":
        canvas.polygon([(x, y - r), (x - r, y + 0.8 * r), (x + r, y + 0.8 * r)], colour)
    else:
        radii = [r if corner % 2 == 0 else 0.42 * r for corner in range(10)]
        angles = [-pi / 2 + corner * pi / 5 for corner in range(10)]
        canvas.polygon([(x + a * cos(t), y + a * sin(t)) for a, t in zip(radii, angles, strict=True)], colour)


def _captions(generator: np.random.Generator, first: Thing, second: Thing, relation: str, background: str) -> list[str]:
    inverse = RELATIONS[relation]
    side_by_side = relation == "left of"
    placed = ("on the left", "on the right") if side_by_side else ("at the top", "at the bottom")
    captions = [
        f"a {first.words} {relation} a {second.words} on a {background} background",
        f"a {second.words} {inverse} a {first.words} on {background}",
        f"there is a {first.words} {placed[0]} and a {second.words} {placed[1]}, the background is {background}",
        f"on a {background} background, the {second.colour} {second.shape} is {inverse} the {first.colour} {first.shape}",
        f"a {background} picture with a {first.words} and a {second.words}, "
        + ("side by side" if side_by_side else "one above the other"),
    ]
    return [captions[index] for index in generator.permutation(len(captions))]
