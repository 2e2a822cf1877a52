"""Drawn scenes with true captions: the content of the built-in sample dataset.

A scene is two coloured shapes in one relation, such as *a small red circle to the left of a large
blue square*. Its content is known exactly, so the captions of a trained captioner can be judged exactly,
and a few hundred pictures suffice for training. They do not show how a model does on photographs:
they have no texture, clutter or perspective.

Every function is pure, but that `random_scene` advances the generator it is given. The same
generator state gives the same scene, the same captions and the same pixels.

Lengths are in scene units: the scene is a plane `PLANE_WIDTH` wide and 1 high, its origin at the
top left, y pointing down as in Pillow. `draw` fits that plane into a picture of any size.
"""

import colorsys
import math
import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

Relation = Literal["left", "right", "above", "below"]
Size = Literal["small", "large"]
Rgb = tuple[int, int, int]
Point = tuple[float, float]

#: Nominal colours, distinct enough to stay distinct after `_COLOUR_JITTER` and JPEG.
COLOURS: dict[str, Rgb] = {
    "red": (214, 32, 38),
    "orange": (247, 136, 18),
    "yellow": (246, 218, 28),
    "green": (36, 150, 62),
    "blue": (34, 84, 204),
    "purple": (134, 46, 164),
    "black": (24, 24, 28),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross")
#: Range of the circumscribed circle's radius, in scene units. The gap between the two ranges
#: makes "small" and "large" unambiguous.
RADII: dict[Size, tuple[float, float]] = {"small": (0.100, 0.115), "large": (0.190, 0.210)}
RELATIONS: tuple[Relation, ...] = ("left", "right", "above", "below")

PLANE_WIDTH = 4 / 3
_MARGIN = 0.03  # least distance of a shape from the edge of the plane, and of two shapes
_MAX_SLANT = 0.5  # largest offset across the relation's axis, as a fraction of that along it
_MAX_TILT = 8.0  # degrees a shape is turned by, at most
_COLOUR_JITTER = 8  # of 255, on each channel
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """One shape of a scene.

    Attributes:
        size: "small" or "large", see `RADII`.
        colour: a key of `COLOURS`.
        shape: one of `SHAPES`.
        x, y: centre of the circumscribed circle, in scene units.
        radius: radius of the circumscribed circle, in scene units.
        tilt: degrees turned clockwise from upright.
        fill: the colour as painted, each channel 0 to 255.
    """

    size: Size
    colour: str
    shape: str
    x: float
    y: float
    radius: float
    tilt: float
    fill: Rgb

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two things and their relation: `first` is `relation` of `second`.

    Attributes:
        first, second: the things; their colours differ.
        relation: "left" means that `first` is to the left of `second`, and so on.
        background: colours of the top and the bottom edge, with a gradient in between.
        wording: any non-negative number; chooses among synonyms in the captions.
    """

    first: Thing
    second: Thing
    relation: Relation
    background: tuple[Rgb, Rgb]
    wording: int


def random_scene(rng: random.Random) -> Scene:
    """Draws a scene at random.

    Both things lie wholly inside the plane, do not touch, differ in colour, and are at least twice
    as far apart along the relation's axis as across it.

    Args:
        rng: the only source of randomness; advanced.
    """
    relation = rng.choice(RELATIONS)
    colours = rng.sample(sorted(COLOURS), 2)
    sizes: list[Size] = [rng.choice(("small", "large")) for _ in colours]
    radii = [rng.uniform(*RADII[size]) for size in sizes]
    centres = _place(rng, radii[0], radii[1], relation)
    first, second = (
        Thing(
            size=size,
            colour=colour,
            shape=rng.choice(SHAPES),
            x=x,
            y=y,
            radius=radius,
            tilt=rng.uniform(-_MAX_TILT, _MAX_TILT),
            fill=_jitter(rng, COLOURS[colour]),
        )
        for size, colour, radius, (x, y) in zip(sizes, colours, radii, centres, strict=True)
    )
    return Scene(first, second, relation, _background(rng), wording=rng.randrange(60))


def draw(scene: Scene, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Paints a scene, antialiased, as an RGB picture.

    The plane is centred and as large as fits without distortion, so the captions stay true at any
    aspect ratio; the background fills the rest.

    Args:
        scene: what to paint.
        size: width and height of the picture in pixels.

    Raises:
        ValueError: the width or the height is not positive.
    """
    if min(size) < 1:
        raise ValueError(f"a picture needs a positive width and height, not {size[0]}x{size[1]}")
    width, height = (side * _SUPERSAMPLING for side in size)
    scale = min(width / PLANE_WIDTH, height)
    left, top = (width - PLANE_WIDTH * scale) / 2, (height - scale) / 2

    # Pillow blends the two colours when it stretches a column of two pixels.
    canvas = Image.new("RGB", (1, 2))
    canvas.putpixel((0, 0), scene.background[0])
    canvas.putpixel((0, 1), scene.background[1])
    canvas = canvas.resize((width, height), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for thing in (scene.first, scene.second):
        outline = [(left + x * scale, top + y * scale) for x, y in _outline(thing)]
        pen.polygon(outline, fill=thing.fill)
    return canvas.resize(size, Image.Resampling.BOX)


def captions(scene: Scene) -> list[str]:
    """Describes a scene in five true sentences, each worded differently.

    The first two have the same wording for all pictures, so that a captioner can be right word for
    word; they differ in their subject. The others use one of several phrases, chosen by
    `scene.wording`, as people do.

    Returns:
        Five capitalised sentences with a full stop.
    """
    first, second = f"a {scene.first}", f"a {scene.second}"
    # The last three name the thing on the left, or at the top, first.
    near, far = (first, second) if scene.relation in ("left", "above") else (second, first)
    if scene.relation in ("left", "right"):
        near_place, far_place, beside_near = "on the left", "on the right", "to its right"
    else:
        near_place, far_place, beside_near = "at the top", "at the bottom", "below it"
    choice = scene.wording
    opening = ("There is", "You can see", "We see")[choice % 3]
    medium = ("The picture", "The image", "This drawing", "This scene")[choice // 3 % 4]
    verb = ("is", "sits", "lies", "stands", "appears")[choice // 12 % 5]
    sentences = [
        f"{first} is {_PREPOSITION[scene.relation]} {second}.",
        f"{second} is {_PREPOSITION[_OPPOSITE[scene.relation]]} {first}.",
        f"{opening} {near} {near_place} and {far} {far_place}.",
        f"{medium} shows {near} with {far} {beside_near}.",
        f"{near_place} {verb} {near}, and {far_place} {verb} {far}.",
    ]
    return [sentence[0].upper() + sentence[1:] for sentence in sentences]


_PREPOSITION: dict[Relation, str] = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
_OPPOSITE: dict[Relation, Relation] = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
}


def _place(rng: random.Random, first: float, second: float, relation: Relation) -> tuple[Point, Point]:
    """Centres for things of the two radii such that the first is `relation` of the second."""
    across_first = relation in ("left", "right")
    length, breadth = (PLANE_WIDTH, 1.0) if across_first else (1.0, PLANE_WIDTH)
    # `near` is the thing that comes first along the axis: the left one, or the upper one.
    first_is_near = relation in ("left", "above")
    near, far = (first, second) if first_is_near else (second, first)
    least = near + far + _MARGIN
    lowest, highest = near + _MARGIN, length - far - _MARGIN
    distance = rng.uniform(least, highest - lowest)
    along = rng.uniform(lowest, highest - distance)
    near_across = rng.uniform(near + _MARGIN, breadth - near - _MARGIN)
    slant = _MAX_SLANT * distance
    far_across = rng.uniform(max(far + _MARGIN, near_across - slant), min(breadth - far - _MARGIN, near_across + slant))
    ends = ((along, near_across), (along + distance, far_across))
    if not across_first:
        ends = ((near_across, along), (far_across, along + distance))
    return ends if first_is_near else (ends[1], ends[0])


def _jitter(rng: random.Random, colour: Rgb) -> Rgb:
    red, green, blue = (min(255, max(0, channel + rng.randint(-_COLOUR_JITTER, _COLOUR_JITTER))) for channel in colour)
    return red, green, blue


def _background(rng: random.Random) -> tuple[Rgb, Rgb]:
    """Two pale tints of one hue: too light and too grey to be taken for any of `COLOURS`."""
    hue, saturation = rng.random(), rng.uniform(0.0, 0.12)

    def tint(value: float) -> Rgb:
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        return round(red * 255), round(green * 255), round(blue * 255)

    return tint(rng.uniform(0.80, 0.97)), tint(rng.uniform(0.80, 0.97))


def _outline(thing: Thing) -> list[Point]:
    """The thing's corners in scene units, all within its circumscribed circle."""
    return [
        (
            thing.x + thing.radius * radius * math.sin(math.radians(angle + thing.tilt)),
            thing.y - thing.radius * radius * math.cos(math.radians(angle + thing.tilt)),
        )
        for angle, radius in _CORNERS[thing.shape]
    ]


def _arm_corners(half_width: float) -> list[Point]:
    """The upright cross in the unit circle, its arms `2 * half_width` wide."""
    spread = math.degrees(math.asin(half_width))
    corners = []
    for quarter in (0.0, 90.0, 180.0, 270.0):
        corners += [(quarter - spread, 1.0), (quarter + spread, 1.0)]
        corners += [(quarter + 45.0, math.sqrt(2) * half_width)]
    return corners


#: Each shape as (degrees clockwise from the top, distance from the centre) of its corners.
_CORNERS: dict[str, list[Point]] = {
    "circle": [(360 * corner / 90, 1.0) for corner in range(90)],
    "square": [(45.0 + 90 * corner, 1.0) for corner in range(4)],
    "triangle": [(120.0 * corner, 1.0) for corner in range(3)],
    "star": [(36.0 * corner, 0.42 if corner % 2 else 1.0) for corner in range(10)],
    "cross": _arm_corners(0.3),
}
